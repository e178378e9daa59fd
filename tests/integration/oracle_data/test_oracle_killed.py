"""The real daemon and the real ``collect``, killed with -9 at many moments: nothing doubled, no hole, alerts once."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from oracle_services import Answer, LocalServer  # type: ignore[import-not-found]
from sqlalchemy import make_url, select, update

from qaicl.cli.main import run
from qaicl.oracle import database
from qaicl.oracle.alerts.tables import alert_outbox
from qaicl.oracle.store import Store, floor
from qaicl.settings import AssetSettings

HOUR = timedelta(hours=1)
DAYS = 2
ASSETS = ("qubic", "second")
PATIENCE = 60.0
FORK = multiprocessing.get_context("fork")


def in_toml(value: Any) -> str:
    """A value on one line of TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {in_toml(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(in_toml(one) for one in value) + "]"
    return json.dumps(value)


class Kill(Enum):
    """When the process is killed."""

    collecting = auto()
    """``qaicl oracle collect``, after some requests."""
    refreshing = auto()
    """The daemon, after some requests."""
    sending = auto()
    """The daemon, when a message has arrived and its answer has not."""
    sent = auto()
    """The daemon, as soon as a message is answered: before or after that is written down."""


class Receiver(LocalServer):  # type: ignore[misc]
    """A webhook that takes a message once: it answers 409 to an ``Idempotency-Key`` that it knows."""

    def __init__(self) -> None:
        self.posts: list[str] = []
        """The key of each request, in order."""
        self.taken: dict[str, str] = {}
        """Key → subject."""
        self.silent = False
        """Take the message and never answer."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                key = self.headers["Idempotency-Key"]
                status = 409 if key in receiver.taken else 200
                receiver.taken.setdefault(key, body["subject"])
                receiver.posts.append(key)
                if receiver.silent:
                    self.rfile.read(1)  # until the client is gone
                    return
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(Handler)
        self.url += "/hook"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.close()


def command(arguments: tuple[str, ...], environment: dict[str, str], said: Path, fresh: bool) -> None:
    """What a process of ours does."""
    handle = os.open(said, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    if fresh:
        os.execve(sys.executable, [sys.executable, "-m", "qaicl", *arguments], environment)
    os.environ.update(environment)
    os._exit(run(list(arguments)))


class Installation:
    """A home with settings, and qaicl's processes in it."""

    def __init__(self, home: Path, services: Any, receiver: Receiver, database_url: str) -> None:
        market = {"mexc": "QUBIC/USDT", "gate": "QUBIC/USDT"}
        assets = {name: AssetSettings(markets=market) for name in ASSETS}
        assets["qubic"] = AssetSettings(markets=market, coingecko="qubic-network", network="qubic")
        self.settings = services.settings(
            assets=assets,
            database_url=database_url,
            history_days=DAYS,
            refresh_every=1.0,
            risk_every=0.5,
            calls_a_day={"coingecko": 100_000},
            disabled_sources=("newsapi",),
        )
        alerts = {
            "risk_from": 0,
            "risk_margin": 0,
            "group_wait": 0.01,
            "group_interval": 86_400,
            "repeat_interval": 86_400,
            "sinks": {"hook": {"kind": "webhook", "url": receiver.url}, "log": {"kind": "log"}},
            "routes": [{"sinks": ["hook", "log"]}],
        }
        self.url = database_url
        self.log = home / "state" / "contexts" / "default" / "alerts.jsonl"
        context = home / "config" / "contexts" / "default"
        context.mkdir(parents=True)
        values = {"oracle": msgspec.to_builtins(self.settings), "alerts": alerts}
        (context / "config.toml").write_text(
            "\n".join(f"{name} = {in_toml(section)}" for name, section in values.items())
        )
        self._environment = {**os.environ, "QAICL_HOME": str(home), "NO_COLOR": "1"}
        self._said = home / "stderr"

    def start(self, *arguments: str, fresh: bool) -> BaseProcess:
        """A qaicl command in a process of its own.

        Args:
            fresh: in an interpreter of its own too; else in a fork of this one, which begins at once.
        """
        process = FORK.Process(target=command, args=(arguments, self._environment, self._said, fresh))
        process.start()
        return process

    def kill_when(self, process: BaseProcess, condition: Callable[[], bool], pause: float = 0.0) -> None:
        """SIGKILL as soon as the condition holds, or so many seconds later."""
        self.wait(process, condition)
        time.sleep(pause)
        process.kill()
        process.join(10)
        assert process.exitcode == -signal.SIGKILL

    def wait(self, process: BaseProcess, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert process.is_alive(), self._said.read_text()
            assert time.monotonic() < deadline, self._said.read_text()
            time.sleep(0.01)

    def open(self) -> Store:
        url = make_url(self.url)
        url = url if url.get_backend_name() == "sqlite" else url.set(drivername="postgresql+psycopg")
        return Store(database.connect(url))

    def let_a_claim_run_out(self) -> None:
        """In place of waiting for a minute."""
        with self.open() as store, store.writing() as connection:
            past = store.clock() - timedelta(seconds=1)
            connection.execute(
                update(alert_outbox).where(alert_outbox.c.state == "sending").values(next_at=past, created_at=past)
            )

    def outbox(self) -> list[Any]:
        with self.open() as store, store.reading() as connection:
            return list(connection.execute(select(alert_outbox)).all())


def test_killed_at_any_moment_it_doubles_nothing_leaves_no_hole_and_alerts_once(
    tmp_path: Path, services: Any, receiver: Receiver, database_url: str
) -> None:
    for name in ("ccxt.async_support", "qaicl.oracle.alerts.watching", "qaicl.oracle.forecast.backtest"):
        importlib.import_module(name)  # here, so that each forked process begins to work at once
    chance = random.Random(20261123)
    services.always("/feed.xml", Answer(b"", 404))  # so that an alert about a source rings too
    services.delay = 0.005
    here = Installation(tmp_path, services, receiver, database_url)

    kills = list(Kill) if make_url(database_url).get_backend_name() == "sqlite" else [Kill.sending]
    for kill in kills:
        seen, wanted = len(receiver.posts), sum(services.calls.values()) + chance.randint(3, 14)
        moments: dict[Kill, Callable[[], bool]] = {
            Kill.collecting: lambda wanted=wanted: sum(services.calls.values()) >= wanted,  # type: ignore[misc]
            Kill.refreshing: lambda wanted=wanted: sum(services.calls.values()) >= wanted,  # type: ignore[misc]
            Kill.sending: lambda seen=seen: len(receiver.posts) > seen,  # type: ignore[misc]
            Kill.sent: lambda seen=seen: len(receiver.posts) >= seen + 2,  # type: ignore[misc]
        }
        receiver.silent = kill is Kill.sending
        arguments = ("oracle", "collect") if kill is Kill.collecting else ("daemon", "oracle")
        process = here.start(*arguments, fresh=kill is Kill.collecting)
        here.kill_when(process, moments[kill], 0.0 if kill is Kill.sending else chance.random() * 0.05)
        receiver.silent = False
        if kill is Kill.sending:
            unknown = receiver.posts[-1]
            assert [row.key for row in here.outbox() if row.state == "sending"] == [unknown]
        here.let_a_claim_run_out()

    last = here.start("daemon", "oracle", fresh=len(kills) > 1)
    expected = Counter(f"alert={alert} asset={asset}" for asset in ASSETS for alert in ("risk", "source"))
    here.wait(last, lambda: len(receiver.taken) >= len(expected))
    here.wait(last, lambda: {row.state for row in here.outbox()} == {"sent"})
    last.terminate()
    last.join(20)
    assert last.exitcode == 0

    # Each alert is one message, each message has one key, the receiver and the log have taken each once.
    assert Counter(subject.partition("] ")[2] for subject in receiver.taken.values()) == expected
    rows = here.outbox()
    assert {row.key for row in rows if row.sink == "hook"} == set(receiver.taken)
    lines = [json.loads(line) for line in here.log.read_text().splitlines()]
    assert Counter(line["key"] for line in lines) == Counter(row.key for row in rows if row.sink == "log")
    # A request was repeated only where a kill left its answer unrecorded, and then with the same key.
    repeated = {key for key, times in Counter(receiver.posts).items() if times > 1}
    assert unknown in repeated
    assert len(repeated) <= 2

    top = floor(datetime.now(UTC), HOUR)
    with here.open() as store:
        for asset in ASSETS:
            for exchange in ("mexc", "gate"):
                assert store.missing(asset, "1h", exchange, top - timedelta(days=DAYS), top - HOUR) == []
                frame = store.candles(asset, top - timedelta(days=DAYS), top - HOUR, "1h", source=exchange)
                assert len(frame) == 24 * DAYS - 1
                assert frame.index.is_unique
        now = datetime.now(UTC)
        prices = store.observations("price", now - timedelta(days=DAYS), now, asset="qubic")
        assert len({(o.source, o.observed_at) for o in prices}) == len(prices)
        times = [o.observed_at for o in prices if o.source == "coingecko"]
        assert max(after - before for before, after in pairwise(times)) <= 2 * HOUR
        assert times[0] <= now - timedelta(days=DAYS) + 2 * HOUR
