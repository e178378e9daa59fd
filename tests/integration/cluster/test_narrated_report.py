"""A report narrated by a real cluster with a real, very small model, and without any cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from qaicl.cli.asking import ask_text
from qaicl.oracle.report.document import Report
from qaicl.oracle.report.making import make_report
from qaicl.oracle.report.narrate import narrate, unsupported
from tests.integration.cluster.conftest import Cluster, make_cluster

COMMAND = ("oracle", "report", "--recorded", "--asset", "qubic", "--narrate", "-o", "json")


@pytest.fixture(scope="module")
def cluster(smollm2_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    # Without the sentiment's model, which this is not about: the report comes without that part.
    models = tmp_path_factory.mktemp("models")
    (models / smollm2_directory.name).symlink_to(smollm2_directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QAICL_MODELS_DIRECTORY", str(models))
        yield from make_cluster(model="smollm2-135m", precision="float32", nodes=1, orchestrators=1)


@pytest.fixture(scope="module")
def report(cluster: Cluster) -> Report:
    clock = datetime(2026, 1, 1, tzinfo=UTC)
    return make_report(cluster.settings, asset="qubic", horizon=timedelta(days=1), recorded=True, now=clock)


@pytest.mark.timeout(300)
def test_the_command_asks_the_cluster_and_checks_what_comes_back(cluster: Cluster, report: Report) -> None:
    done = cluster.cli(*COMMAND)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    if made["narrative"] is None:
        why = made["absent"]["narrative"]["why"]
        assert why.startswith("the narrative was dropped: "), "the cluster answered, and the answer was checked"
        assert f"warning: {why}" in done.stderr
    else:
        assert made["narrative"]["model"] == "smollm2-135m"
        assert unsupported(made["narrative"]["text"], report) == []


@pytest.mark.timeout(300)
def test_a_number_that_the_model_puts_in_costs_the_paragraph(cluster: Cluster, report: Report) -> None:
    def astray(_: str) -> str:
        return ask_text(cluster.settings, "Say exactly this: The price of qubic is 777 dollars.", max_tokens=24)

    found = narrate(report, astray, "smollm2-135m")
    assert found.narrative is None
    assert found.absent["narrative"].why.startswith("the narrative was dropped: not in the report: 777")


def test_without_a_cluster_the_report_comes_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QAICL_HOME", str(tmp_path))
    done = subprocess.run([sys.executable, "-m", "qaicl", *COMMAND], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["narrative"] is None and made["risk"]["score"] > 0
    assert "qaicl up" in made["absent"]["narrative"]["fix"]
    assert "warning: the narrative was not written" in done.stderr
