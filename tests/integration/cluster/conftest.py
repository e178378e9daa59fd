"""Real local clusters: separate processes, real sockets, a real Valkey; ``echo`` unless said otherwise."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from qaicl import settings
from qaicl.daemon import processes
from qaicl.daemon.supervisor import Supervisor
from qaicl.inference.engine import ChatMessage, Sampling
from qaicl.wire.client import Client, Update
from qaicl.wire.messages import Outcome, RequestSpec, StatusQuery, StatusReply, Token, new_id

PATIENCE = 20.0


def wait_for(what: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Poll a condition until it holds; its value."""
    deadline = time.monotonic() + patience
    while not (value := what()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)
    return value


@dataclass
class Answer:
    """What came back of one request."""

    tokens: list[Token] = field(default_factory=list)
    outcome: Outcome | None = None
    gap: float = 0.0
    """Longest time between two tokens, seconds."""

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)


class Cluster:
    """A running local cluster below a directory of its own."""

    def __init__(self, home: Path, **flags: Any) -> None:
        self.home = home
        self.settings = settings.load(None, {f"cluster.{key}": value for key, value in flags.items()})
        self.supervisor = Supervisor(self.settings)
        self.context = self.settings.paths.context("default")

    def up(self) -> dict[str, Any]:
        return self.supervisor.up(set(), lambda _: None)

    def client(self, patience: float = 10.0) -> Client:
        return Client(self.context, patience=patience)

    def status(self) -> dict[str, Any]:
        with self.client() as client:
            return client.call(StatusQuery(), StatusReply).status

    def pid(self, name: str) -> int:
        return next(entry.pid for entry in self.supervisor.running() if entry.name == name)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        pid = self.pid(name)
        os.kill(pid, number)
        return pid

    def node_of_stage(self, first: int) -> str:
        """The node whose running stage begins with this layer."""

        def find() -> str | None:
            nodes = self.status()["nodes"]
            return next((node["name"] for node in nodes if any(stage[0] == first for stage in node["stages"])), None)

        return str(wait_for(find))

    def node_of_later_stage(self) -> str:
        """A node whose running stage is not the first."""

        def find() -> str | None:
            nodes = self.status()["nodes"]
            return next((node["name"] for node in nodes if any(stage[0] > 0 for stage in node["stages"])), None)

        return str(wait_for(find))

    def all_alive(self) -> bool:
        return all(node["state"] == "alive" for node in self.status()["nodes"])

    def cli(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "qaicl", *arguments]
        return subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=60, check=False)

    def json(self, *arguments: str) -> Any:
        done = self.cli(*arguments, "-o", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def spec(text: str = "why is the sky blue", mode: str = "auto", stages: int = 0, **sampling: Any) -> RequestSpec:
    """A request with a fresh id."""
    sampling = {"seed": 7, "temperature": 0.8, "max_tokens": 24} | sampling
    return RequestSpec(new_id(), new_id(), "", (ChatMessage("user", text),), Sampling(**sampling), mode, stages)  # type: ignore[arg-type]


def collect(updates: Iterator[Update], after: int = 0, strike: Callable[[], None] | None = None) -> Answer:
    """Follow one request to its end; call ``strike`` once, when ``after`` tokens have come."""
    answer = Answer()
    last = time.monotonic()
    for update in updates:
        now = time.monotonic()
        if update.tokens:
            if answer.tokens:
                answer.gap = max(answer.gap, now - last)
            last = now
        answer.tokens += update.tokens
        answer.outcome = update.outcome or answer.outcome
        if strike is not None and len(answer.tokens) >= after:
            strike()
            strike = None
    assert strike is None, "the answer ended before the fault"
    return answer


def make_cluster(delay_ms: float = 0.0, **flags: Any) -> Iterator[Cluster]:
    """Start a cluster and take everything down afterwards, whatever happened to it."""
    home = Path(tempfile.mkdtemp(prefix="qaicl-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QAICL_HOME", str(home))
        patch.setenv("QAICL_ECHO_DELAY_MS", str(delay_ms))
        cluster = Cluster(home, **({"model": "echo"} | flags))
        try:
            cluster.up()
            yield cluster
        finally:
            for running in processes.known(cluster.settings.paths.run("default") / "daemons"):
                if processes.alive(running):
                    psutil.Process(running.pid).resume()
            cluster.supervisor.down()
            shutil.rmtree(home)
