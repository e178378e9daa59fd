"""The daemon and the commands, as processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from oracle_services import Answer  # type: ignore[import-not-found]

from qaicl import settings as configuration
from qaicl.cli.main import run
from qaicl.daemon.oracle import Job, OracleDaemon, standard_jobs
from qaicl.errors import OracleError
from qaicl.oracle.opening import open_store
from qaicl.oracle.snapshot import Snapshot
from qaicl.settings import Paths, Settings, Values


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QAICL_HOME", str(tmp_path))
    monkeypatch.setenv("NO_COLOR", "1")
    return tmp_path


def loaded(tmp_path: Path, services: Any, **changes: Any) -> Settings:
    values = Values(oracle=services.settings(**changes))
    return Settings(values, Paths(tmp_path / "c", tmp_path / "d", tmp_path / "s"), "default")


def stop_when(condition: Any) -> threading.Thread:
    """Send this process SIGTERM once the condition holds; the daemon runs in the main thread."""

    def watch() -> None:
        deadline = time.monotonic() + 20
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_it_refreshes_then_judges_again_and_again_until_told_to_stop(
    tmp_path: Path, services: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = loaded(tmp_path, services, refresh_every=0.3)
    prices: list[float | None] = []

    def judge(store: Any, settings: Settings, now: datetime) -> str:
        prices.append(Snapshot.load(store, "qubic", now, settings=settings.values.oracle).price.value)
        return "judged"

    stopper = stop_when(lambda: len(prices) >= 2 and services.calls["/qubic/v1/latest-stats"] >= 2)
    OracleDaemon(settings, [Job("risk", 0.2, judge)]).run()
    stopper.join()
    assert all(prices), "judged only after the first refresh"
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert events[0]["event"] == "started"
    assert events[-1]["event"] == "stopped"
    assert {"event": "refresh"}.items() <= events[1].items()
    assert "7 of 8 sources answered" in events[1]["result"]


def test_the_standard_jobs_assess_risk_on_what_was_collected(
    tmp_path: Path, services: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = loaded(tmp_path, services)
    lines: list[str] = []

    def assessed() -> bool:
        lines.extend(capfd.readouterr().err.splitlines())
        return any("risk assessed" in line for line in lines)

    stopper = stop_when(assessed)
    OracleDaemon(settings, standard_jobs(settings)).run()
    stopper.join()
    assert assessed()
    assert not [line for line in lines if '"level":"error"' in line]


def test_a_job_that_fails_is_logged_and_tried_again(
    tmp_path: Path, services: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    tries: list[int] = []

    def fail(store: Any, settings: Settings, now: datetime) -> str:
        tries.append(1)
        raise OracleError("no risk today", why="a test", fix="nothing")

    stopper = stop_when(lambda: len(tries) >= 2)
    OracleDaemon(loaded(tmp_path, services), [Job("risk", 0.05, fail)]).run()
    stopper.join()
    errors = [json.loads(line) for line in capfd.readouterr().err.splitlines() if '"error"' in line]
    assert errors[0]["what"] == "no risk today"


def test_sources_that_are_down_do_not_end_it(tmp_path: Path, services: Any) -> None:
    settings = loaded(tmp_path, services, refresh_every=0.1)
    services.always("/feed.xml", Answer(b"", 404))
    stopper = stop_when(lambda: services.calls["/qubic/v1/latest-stats"] >= 3)
    OracleDaemon(settings).run()
    stopper.join()
    with open_store(settings) as store:
        assert store.health()["rss:paper"].failures >= 1
        assert store.health()["qubic"].failures == 0


def test_stopping_amid_a_refresh_takes_a_moment_and_loses_nothing(tmp_path: Path, services: Any) -> None:
    services.delay = 10.0
    settings = loaded(tmp_path, services)
    began: list[float] = []

    def asked() -> bool:
        if sum(services.calls.values()) >= 1:
            began.append(time.monotonic())
            return True
        return False

    stopper = stop_when(asked)
    OracleDaemon(settings).run()
    stopper.join()
    assert time.monotonic() - began[0] < services.delay
    services.delay = 0.0
    from qaicl.oracle.collect import collect

    with open_store(settings) as store:
        assert not asyncio.run(collect(store, settings.values.oracle, {})).failed


# --- commands ------------------------------------------------------------------------------------


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_recorded_price_needs_nothing_and_says_that_it_is_recorded(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = printed(capsys, "oracle", "price", "--recorded", "-o", "json")
    data = json.loads(out)
    assert code == 0
    assert data["recorded"] is True
    assert (data["asset"], data["figures"][0]["unit"]) == ("ethereum", "BTC")
    assert data["now"] == "2018-01-30T05:00:00Z"
    assert "not the present market" in err


def test_nothing_stored_and_unknown_assets_are_clear_errors(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = printed(capsys, "oracle", "price")
    assert (code, out) == (1, "")
    assert "qaicl oracle collect" in err
    code, _, err = printed(capsys, "oracle", "price", "--asset", "doge")
    assert code == 2
    assert "known are qubic, bitcoin" in err


@pytest.fixture
def collected(home: Path, services: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    original = configuration.load

    def load(*arguments: Any, **named: Any) -> Settings:
        found = original(*arguments, **named)
        return Settings(Values(oracle=services.settings()), found.paths, found.context, found.origin)

    monkeypatch.setattr(configuration, "load", load)
    yield home


def test_collect_sources_and_price_go_together(collected: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = printed(capsys, "oracle", "collect", "-o", "json")
    statuses = {one["source"]: one["status"] for one in json.loads(out)["sources"]}
    assert (code, statuses["mexc"], statuses["newsapi"]) == (0, "ok", "skipped")
    assert "mexc: 48 candles" in err
    code, out, _ = printed(capsys, "oracle", "sources")
    assert "no key: set NEWSAPI_KEY" in " ".join(out.split())
    code, out, _ = printed(capsys, "oracle", "price")
    assert code == 0
    assert "FRESH" in out
    code, out, _ = printed(capsys, "oracle", "watch", "--count", "1", "-o", "json")
    assert json.loads(out)["state"] == "FRESH"
    code, out, _ = printed(capsys, "oracle", "sources", "--quarantine", "-o", "json")
    assert json.loads(out)["items"][0]["source"] == "rss:paper"


def test_brackets_in_what_a_source_said_are_shown_as_they_are(
    collected: Path, services: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    services.always("/fear_greed/fng/", Answer(b"not found: [/b] [red]:warning:", 404))
    for command in (("collect", "--source", "fear_greed", "--source", "qubic"), ("sources",)):
        code, out, _ = printed(capsys, "oracle", *command)
        assert code == 0
        assert "[/b] [red]:warning:" in out


def test_collect_with_every_source_down_exits_4_and_keeps_what_is_stored(
    collected: Path, services: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert printed(capsys, "oracle", "collect")[0] == 0
    services.close()
    code, _, err = printed(capsys, "oracle", "collect")
    assert code == 4
    assert "no source answered" in err
    code, _, err = printed(capsys, "oracle", "collect", "--source", "mexc")
    assert code == 4
    for _ in range(2):
        code, out, _ = printed(capsys, "oracle", "collect", "--source", "mexc")
        assert code == 4, "left alone by then, and still no answer"
    assert "left alone until" in out
    code, _, err = printed(capsys, "oracle", "price")
    assert code == 0
    assert "source:mexc DEGRADED" in err


def test_with_every_source_down_the_report_comes_from_the_store_with_ages_and_warnings(
    collected: Path, services: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert printed(capsys, "oracle", "collect")[0] == 0
    services.close()
    assert printed(capsys, "oracle", "collect")[0] == 4
    code, out, err = printed(capsys, "oracle", "report", "-o", "json")
    report = json.loads(out)
    assert (code, report["state"]) == (0, "DEGRADED")
    figures = {figure["name"]: figure for figure in report["figures"]}
    assert figures["price"]["value"] > 0
    assert all(figure["age"] > 0 for figure in figures.values() if figure["sources"])
    assert {f"source:{name}" for name in ("mexc", "gate", "coingecko", "qubic")} <= {
        note["subject"] for note in report["notes"] if note["state"] == "DEGRADED"
    }
    assert "mexc DEGRADED: failed 1 times in a row" in err
    assert report["live"]["made"] == 0

    # The price's limit is two hours: made so short that what is stored is too old.
    old = configuration.load

    def impatient(*arguments: Any, **named: Any) -> Settings:
        found = old(*arguments, **named)
        values = Values(oracle=services.settings(price_max_age=1e-3, network_max_age=1e-3))
        return Settings(values, found.paths, found.context, found.origin)

    monkeypatch.setattr(configuration, "load", impatient)
    code, out, err = printed(capsys, "oracle", "report")
    assert code == 0
    assert "STALE" in out
    assert "price STALE" in err.casefold().replace("stale", "STALE")


def test_with_nothing_stored_and_every_source_down_the_report_is_a_clear_error(
    collected: Path, services: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    services.close()
    assert printed(capsys, "oracle", "collect")[0] == 4
    code, out, err = printed(capsys, "oracle", "report")
    assert (code, out) == (1, "")
    assert "nothing is stored of qubic" in err
    assert "qaicl oracle collect" in err


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from qaicl.cli.main import run; run(['oracle', '--help']); "
        "heavy = {'pandas', 'sqlalchemy', 'ccxt', 'torch', 'httpx'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=60)
