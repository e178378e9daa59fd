"""The operator at the controller: a home with an inventory, and the real ``qaicl`` in the lab's network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .command import run
from .config import cache_directory
from .errors import LabError
from .lab import Lab
from .sampler import Sampler

CLUSTER = "lab"
ROLES = {
    "vm1": ["orchestrator", "node", "redis", "postgres"],
    "vm2": ["standby", "node", "redis"],
    "vm3": ["node", "redis"],
}
CHECKOUT = Path(__file__).resolve().parents[3]
SHIPPED = ("qaicl", "playbooks", "pyproject.toml", "README.md")


@dataclass(frozen=True)
class Finished:
    """A ``qaicl`` command that has ended."""

    command: tuple[str, ...]
    code: int
    stdout: str
    stderr: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of a run with ``-o json``."""
        return [json.loads(line) for line in self.stdout.splitlines() if line.startswith("{")]

    def expect(self, code: int) -> Finished:
        """This, if it exited with ``code``; else everything it said."""
        assert self.code == code, f"{' '.join(self.command)}: exit {self.code}, not {code}\n{self.tail}"
        return self

    @property
    def tail(self) -> str:
        """The end of what it said."""
        return f"{self.stdout[-6000:]}\n{self.stderr[-3000:]}"


class Operator:
    """One operator with a home of their own.

    Args:
        home: becomes ``QAICL_HOME``; what earlier operators gathered (models, wheels) is linked into it.
        checkout: the qaicl that this operator runs and installs.
    """

    def __init__(self, lab: Lab, home: Path, checkout: Path) -> None:
        self.lab = lab
        self.home = home
        self.checkout = checkout
        self.inventory = home / "cluster.yaml"
        self.first_run: Finished | None = None
        self.sampler: Sampler | None = None
        kept = cache_directory() / "operator" / "data"
        home.mkdir(parents=True, exist_ok=True)
        if kept.is_dir() and not home.joinpath("data").exists():
            _link_tree(kept, home / "data")
        self.write_inventory()

    def environment(self) -> dict[str, str]:
        """The environment of the operator's commands."""
        own = {"QAICL_HOME": str(self.home), "PYTHONPATH": str(self.checkout), "NO_COLOR": "1", "COLUMNS": "200"}
        return self.lab.environment(own)

    def write_inventory(self, changes: Mapping[str, Any] | None = None) -> None:
        """Write ``cluster.yaml`` for the lab; ``changes`` replace top-level keys."""
        hosts = {
            name: {"address": machine.address, "host_key": machine.host_key, "roles": ROLES[name]}
            for name, machine in self.lab.machines.items()
        }
        inventory = {
            "cluster": CLUSTER,
            "network": "10.0.0.0/24",
            "model": "smollm2-135m",
            "precision": "float32",
            "threads": 1,
            "ssh": {"user": "root", "key": str(self.lab.config.key_file), "connect_timeout": 5},
            "hosts": hosts,
        }
        self.inventory.write_text(yaml.safe_dump(inventory | dict(changes or {}), sort_keys=False))

    def edit_host(self, name: str, **changes: Any) -> None:
        """Change what the inventory says of one host."""
        hosts = yaml.safe_load(self.inventory.read_text())["hosts"]
        hosts[name] |= changes
        self.change_inventory(hosts=hosts)

    def change_inventory(self, **changes: Any) -> None:
        """Change top-level keys of the inventory and leave the others as they are."""
        inventory = yaml.safe_load(self.inventory.read_text())
        self.inventory.write_text(yaml.safe_dump(inventory | changes, sort_keys=False))

    def with_next_release(self, home: Path, checkout: Path, *, broken: bool = False) -> Operator:
        """The same operator a release later: keys, secrets and context as they are, qaicl itself changed.

        Args:
            broken: its node daemon ends as soon as it starts.
        """
        freeze_checkout(checkout, self.checkout)
        with (checkout / "qaicl" / "__init__.py").open("a") as file:
            file.write('\n"""The release after."""\n')
        if broken:
            with (checkout / "qaicl" / "daemon" / "node.py").open("a") as file:
                file.write('\nraise SystemExit("this release does not start")\n')
        for name in ("config", "state"):
            shutil.copytree(self.home / name, home / name)
        _link_tree(self.home / "data", home / "data")
        return Operator(self.lab, home, checkout)

    # --- commands

    def command(self, *words: str) -> list[str]:
        """The command line of ``qaicl WORDS`` in the lab's network."""
        # -P: a checkout in the current directory would come before the operator's own.
        return self.lab.network.inside(sys.executable, "-P", "-m", "qaicl", *words)

    def qaicl(self, *words: str, stdin: str | None = None, timeout: float = 600.0) -> Finished:
        """Run ``qaicl`` to its end."""
        done = run(*self.command(*words), env=self.environment(), check=False, stdin=stdin, timeout=timeout)
        return Finished(("qaicl", *words), done.returncode, done.stdout, done.stderr)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start ``qaicl``; what it says on stderr goes nowhere."""
        return subprocess.Popen(
            self.command(*words),
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def plan(self, *words: str) -> Finished:
        """``qaicl provision plan``."""
        return self.qaicl("provision", "plan", "-f", str(self.inventory), *words)

    def apply(self, *words: str, timeout: float = 800.0) -> Finished:
        """``qaicl provision apply`` without a question, as events."""
        return self.qaicl(*self.apply_words(*words), timeout=timeout)

    def apply_words(self, *words: str) -> tuple[str, ...]:
        """The words behind ``qaicl`` with which :meth:`apply` runs it."""
        return ("provision", "apply", "-f", str(self.inventory), "--yes", "-o", "json", *words)

    def ask(self, prompt: str, *words: str, timeout: float = 180.0) -> dict[str, Any]:
        """Ask the cluster; the answer as ``ask -o json`` prints it.

        Raises:
            LabError: it did not answer.
        """
        done = self.qaicl("--context", CLUSTER, "ask", "-o", "json", *words, prompt, timeout=timeout)
        if done.code != 0:
            raise LabError(f"ask: exit {done.code}: {done.tail}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def answers(self, prompt: str = "Hello", *words: str) -> bool:
        """Whether the cluster answers now."""
        arguments = ("--context", CLUSTER, "ask", "-o", "json", "--max-tokens", "2", *words, prompt)
        return self.qaicl(*arguments, timeout=90).code == 0

    def status(self) -> dict[str, Any]:
        """``qaicl status``; empty when nothing answers."""
        done = self.qaicl("--context", CLUSTER, "status", "-o", "json", timeout=60)
        return json.loads(done.stdout) if done.code == 0 else {}

    def alive_nodes(self) -> set[str]:
        """The names of the nodes that the leader counts as alive."""
        return {node["name"] for node in self.status().get("nodes", []) if node["state"] == "alive"}


def freeze_checkout(target: Path, source_checkout: Path = CHECKOUT) -> Path:
    """A copy of a checkout's qaicl, so that editing goes on while a long run installs it."""
    target.mkdir(parents=True)
    for name in SHIPPED:
        source = source_checkout / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / name)
    return target


def _link_tree(source: Path, target: Path) -> None:
    """A copy that shares its files: qaicl replaces files whole and never writes into one in place."""
    shutil.copytree(source, target, copy_function=os.link)


def seen(process: subprocess.Popen[str], kind: str, host: str = "") -> Iterator[dict[str, Any]]:
    """The events of one kind, as the running command tells them."""
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["kind"] == kind and host in ("", event.get("host")):
            yield event


def keep_gathered(operator: Operator) -> None:
    """Let the next operator have the models and wheels that this one gathered."""
    kept = cache_directory() / "operator" / "data"
    kept.mkdir(parents=True, exist_ok=True)
    for name in ("models", "bundles", "bundle"):
        found = operator.home / "data" / name
        if found.is_dir():
            with tempfile.TemporaryDirectory(dir=kept.parent) as temporary:
                fresh = Path(temporary) / name
                _link_tree(found, fresh)
                if (kept / name).exists():
                    (kept / name).rename(Path(temporary) / "old")
                fresh.rename(kept / name)
