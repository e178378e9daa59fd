"""The commands as an operator runs them, on recorded data and without a network."""

import json
import os
from pathlib import Path

import pytest

from qaicl.cli.main import run
from qaicl.errors import UsageError
from qaicl.oracle.report.making import write_whole


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QAICL_HOME", str(tmp_path / "home"))
    return tmp_path


def oracle(*arguments: str) -> int:
    return run(["oracle", *arguments])


def test_a_recorded_report_is_written_whole_without_models_keys_or_network(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = home / "report.html"
    assert oracle("report", "--recorded", "--asset", "qubic", "--format", "html", "--output", str(file)) == 0
    page = file.read_text()
    assert page.startswith("<!doctype html>") and "RECORDED" in page
    assert [path.name for path in home.iterdir() if path.name.startswith(".")] == []
    assert "warning: recorded STALE" in capsys.readouterr().err


def test_json_is_versioned_and_the_same_both_ways(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert oracle("report", "--recorded", "--asset", "qubic", "-o", "json") == 0
    printed = json.loads(capsys.readouterr().out)
    file = home / "r.json"
    assert oracle("report", "--recorded", "--asset", "qubic", "--format", "json", "--output", str(file)) == 0
    written = json.loads(file.read_text())
    assert printed["version"] == 1 and printed["recorded"] is True
    assert written.pop("generated_at") and printed.pop("generated_at")
    assert written == printed


def test_nothing_stored_is_a_clear_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert oracle("report") == 1
    error = capsys.readouterr().err
    assert "nothing is stored of" in error and "qaicl oracle collect" in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("report", "--recorded", "--horizon", "soon"), "not a time span"),
        (("report", "--recorded", "--asset", "gold"), "no asset 'gold'"),
        (("alerts", "silence", "qubic", "--yes"), "not a label"),
        (("alerts", "test", "pager", "--yes"), "no sink 'pager'"),
    ],
)
def test_usage_errors_say_what_and_exit_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert oracle(*arguments) == 2
    assert said in capsys.readouterr().err


def test_a_report_that_cannot_be_written_leaves_the_old_file(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = home / "no" / "such" / "report.md"
    arguments = ("report", "--recorded", "--asset", "qubic", "--format", "markdown", "--output")
    assert oracle(*arguments, str(missing)) == 2
    assert "cannot write" in capsys.readouterr().err


def test_a_report_replaces_neither_a_link_nor_a_device(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_whole(tmp_path / "pipe", "new")
    assert (tmp_path / "pipe").is_fifo()
    assert os.read(reader, 10) == b"new"
    os.close(reader)
    with pytest.raises(UsageError, match="cannot write"):
        write_whole(tmp_path, "new")


def test_risk_and_anomalies_answer_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert oracle("risk", "--recorded", "--asset", "qubic", "-o", "json") == 0
    risk = json.loads(capsys.readouterr().out)
    assert 0 <= risk["risk"]["score"] <= 100 and risk["risk"]["level"] in ("LOW", "MEDIUM", "HIGH")
    assert oracle("anomalies", "--recorded", "-o", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {a["severity"] for a in found["anomalies"]} <= {"LOW", "MEDIUM", "HIGH", "CRITICAL"}
    assert all(a["reasons"] for a in found["anomalies"])


def test_alerts_are_silenced_listed_and_tested(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert oracle("alerts", "silence", "asset=qubic", "--for", "2h", "--reason", "work", "--yes") == 0
    identity = capsys.readouterr().out.split()[0]
    assert oracle("alerts", "silences", "-o", "json") == 0
    assert [one["id"] for one in json.loads(capsys.readouterr().out)["items"]] == [identity]
    assert oracle("alerts", "unsilence", identity) == 0
    assert oracle("alerts", "list", "-o", "json") == 0
    assert oracle("alerts", "outbox", "-o", "json") == 0
    assert oracle("alerts", "retry", "--yes") == 0
    assert "0 messages are due again" in capsys.readouterr().err
    assert oracle("alerts", "test", "log", "--yes") == 0
    (log,) = home.rglob("alerts.jsonl")
    assert json.loads(log.read_text())["subject"] == "[INFO:1] alert=test"
