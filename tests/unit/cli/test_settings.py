"""Settings come from files, the environment and flags, and remember where from."""

from __future__ import annotations

from pathlib import Path

import pytest

from qaicl import settings
from qaicl.errors import SettingsError


def test_later_layers_win_and_every_value_knows_its_origin(tmp_path: Path) -> None:
    config = tmp_path / "config"
    (config / "contexts" / "lab").mkdir(parents=True)
    (config / "config.toml").write_text('[cluster]\nnodes = 4\nmodel = "a"\nthreads = 1\n[limits]\nqueue = 5\n')
    (config / "contexts" / "lab" / "config.toml").write_text('[cluster]\nmodel = "b"\nthreads = 2\n')
    environ = {"QAICL_HOME": str(tmp_path), "QAICL_CLUSTER_THREADS": "3"}
    loaded = settings.load("lab", {"cluster.nodes": 7, "cluster.orchestrators": None}, environ)
    cluster = loaded.values.cluster
    assert (cluster.nodes, cluster.model, cluster.threads, cluster.orchestrators) == (7, "b", 3, 2)
    assert loaded.values.limits.queue == 5
    assert loaded.origin["cluster.nodes"] == "flag"
    assert loaded.origin["cluster.model"].endswith("lab/config.toml")
    assert loaded.origin["cluster.threads"] == "environment QAICL_CLUSTER_THREADS"
    assert "cluster.orchestrators" not in loaded.origin


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[cluster]\nnodes = 0\n", "cluster.nodes"),
        ("[cluster]\nnodse = 3\n", "cluster.nodse"),
        ("[clutser]\nnodes = 3\n", "clutser.nodes"),
        ("nodes = 3\n", "not a section"),
        ("[cluster\n", "cannot read"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.toml").write_text(text)
    with pytest.raises(SettingsError, match=says) as caught:
        settings.load(environ={"QAICL_HOME": str(tmp_path)})
    assert "config.toml" in str(caught.value)


def test_a_context_is_a_plain_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="not a context name"):
        settings.load("../other", environ={"QAICL_HOME": str(tmp_path)})
