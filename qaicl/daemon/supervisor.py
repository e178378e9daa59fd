"""A local cluster: Valkey, orchestrators and nodes as separate processes on the loopback interface."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from qaicl.daemon import processes
from qaicl.errors import ClusterError, UnreachableError
from qaicl.settings import Settings
from qaicl.store.embedded import EmbeddedValkey
from qaicl.wire import endpoints, keys
from qaicl.wire.client import Client
from qaicl.wire.messages import StatusQuery, StatusReply

START_PATIENCE = 120.0
"""Seconds for all nodes to be up; loading and measuring a model for the first time is most of it."""


class Specification(msgspec.Struct, frozen=True):
    """What a local cluster was started with."""

    nodes: int
    orchestrators: int
    model: str
    precision: str
    threads: int
    store_url: str


@dataclass(frozen=True, slots=True)
class Supervisor:
    """Starts and stops the daemons of one context on this machine."""

    settings: Settings

    @property
    def _run(self) -> Path:
        return self.settings.paths.run(self.settings.context)

    @property
    def _context(self) -> Path:
        return self.settings.paths.context(self.settings.context)

    @property
    def _daemons(self) -> Path:
        return self._run / "daemons"

    # --- up --------------------------------------------------------------------------------------

    def up(self, explicit: set[str], say: Callable[[str], None]) -> dict[str, Any]:
        """Start what is not running, and wait until every node can be given work.

        Args:
            explicit: settings given on the command line; they may not differ from a running cluster's.
            say: told what is going on.

        Returns:
            leader, epoch, nodes, model, precision, seconds, and ``started``, the daemons that were started.

        Raises:
            ClusterError: a daemon ended, a setting contradicts the running cluster, or time ran out.
        """
        begun = time.monotonic()
        with self._locked():
            spec = self.specification(explicit)
            started = self._start(spec, say)
            names = [f"node-{number}" for number in range(1, spec.nodes + 1)]
            names += [running.name for running in self.running() if running.kind == "node"]
            status = self._wait(set(names))
        return {
            "leader": status["leader"],
            "epoch": status["epoch"],
            "nodes": sorted(set(names)),
            "model": spec.model,
            "precision": status["nodes"][0]["precision"],
            "seconds": round(time.monotonic() - begun, 3),
            "started": started,
        }

    def specification(self, explicit: set[str]) -> Specification:
        """What :meth:`up` would start: a running cluster's own, or the settings'.

        Raises:
            ClusterError: an explicit setting contradicts the running cluster.
        """
        cluster = self.settings.values.cluster
        wanted = Specification(
            cluster.nodes,
            cluster.orchestrators,
            cluster.model,
            cluster.precision,
            cluster.threads,
            self.settings.values.store.url,
        )
        path = self._run / "cluster.json"
        if not self.running():
            return wanted
        held = msgspec.json.decode(path.read_bytes(), type=Specification)
        for key in ("model", "precision", "threads"):
            if f"cluster.{key}" in explicit and getattr(wanted, key) != getattr(held, key):
                raise ClusterError(
                    f"a cluster with {key} {getattr(held, key)} runs already",
                    why=f"{getattr(wanted, key)} is asked for now",
                    fix="stop it first with: qaicl down, or take another --context",
                )
        nodes = wanted.nodes if "cluster.nodes" in explicit else held.nodes
        orchestrators = wanted.orchestrators if "cluster.orchestrators" in explicit else held.orchestrators
        return msgspec.structs.replace(held, nodes=nodes, orchestrators=orchestrators)

    def _start(self, spec: Specification, say: Callable[[str], None]) -> list[str]:
        self._daemons.mkdir(parents=True, exist_ok=True, mode=0o700)
        url = spec.store_url
        if not url:
            valkey = self.valkey()
            valkey.start()
            url = valkey.url
        temporary = self._run / ".cluster.json"
        temporary.write_bytes(msgspec.json.encode(spec))
        temporary.replace(self._run / "cluster.json")
        self._key("client", "client")
        names = [("orchestrator", f"orch-{number}") for number in range(1, spec.orchestrators + 1)]
        names += [("node", f"node-{number}") for number in range(1, spec.nodes + 1)]
        running = {entry.name: entry for entry in self.running()}
        missing = [(kind, name) for kind, name in names if name not in running]
        binds = self._binds([name for _, name in missing])
        # Before the daemons, as a standby reads there where the leader is.
        self._write_endpoints({name: binds[name] for kind, name in missing if kind == "orchestrator"})
        if missing:
            say(f"starting {', '.join(name for _, name in missing)} …")
        for kind, name in missing:
            self._spawn(kind, name, spec, url, binds[name])
        return [name for _, name in missing]

    def valkey(self) -> EmbeddedValkey:
        """The embedded server of this context."""
        return EmbeddedValkey(self._run / "valkey")

    def _key(self, role: str, name: str) -> str:
        """The public key of a daemon, made and allowed where it is new."""
        directory = self._context / "keys"
        secret = directory / f"{name}.key_secret"
        if not (secret.exists() and (directory / f"{name}.key").exists()):
            keys.make_keypair(directory, name)
        allowed = directory / "allowed" / role
        allowed.mkdir(parents=True, exist_ok=True)
        public = (directory / f"{name}.key").read_bytes()
        if not (allowed / f"{name}.key").exists() or (allowed / f"{name}.key").read_bytes() != public:
            (allowed / f"{name}.key").write_bytes(public)
        return keys.load_secret(secret).public

    def _binds(self, names: Sequence[str]) -> dict[str, str]:
        """Where daemons are to listen: where each did before, if it can."""
        before = {entry.name: entry.bind for entry in processes.known(self._daemons)}
        kept = {name: before[name] for name in names if name in before and _free(before[name])}
        new = [name for name in names if name not in kept]
        return kept | {name: f"tcp://127.0.0.1:{port}" for name, port in zip(new, _free_ports(len(new)), strict=True)}

    def _spawn(self, kind: str, name: str, spec: Specification, url: str, bind: str) -> None:
        self._key(kind, name)
        threads = spec.threads or max(1, (os.cpu_count() or 1) // spec.nodes)
        environ = dict(os.environ) | {
            "QAICL_CLUSTER_MODEL": spec.model,
            "QAICL_CLUSTER_PRECISION": spec.precision,
            "QAICL_CLUSTER_THREADS": str(threads),
            "QAICL_STORE_URL": url,
            "OMP_NUM_THREADS": str(threads),
        }
        command = [sys.executable, "-m", "qaicl", "--context", self.settings.context, "daemon", kind]
        processes.spawn(self._daemons, name, kind, [*command, "--name", name, "--bind", bind], environ, bind)

    def _write_endpoints(self, starting: Mapping[str, str]) -> None:
        """Write down all orchestrators: those known, and those that are about to start, by name."""
        binds = {entry.name: entry.bind for entry in processes.known(self._daemons) if entry.kind == "orchestrator"}
        entries = [
            endpoints.Orchestrator(name, bind, self._key("orchestrator", name))
            for name, bind in sorted((binds | dict(starting)).items())
        ]
        endpoints.write(self._context, entries)

    def _wait(self, nodes: set[str]) -> dict[str, Any]:
        deadline = time.monotonic() + START_PATIENCE
        missing = nodes
        with Client(self._context, patience=5.0) as client:
            while time.monotonic() < deadline:
                self._complain_of_the_dead()
                try:
                    status: dict[str, Any] = client.call(StatusQuery(), StatusReply).status
                except UnreachableError:
                    continue
                up = {node["name"] for node in status["nodes"] if node["state"] in ("alive", "draining")}
                missing = nodes - up
                if not missing:
                    return status
                time.sleep(0.05)
        raise ClusterError(
            f"not all nodes came up within {START_PATIENCE:g} s",
            why=f"missing: {', '.join(sorted(missing))}",
            fix=f"read their logs in {self._daemons}, then run: qaicl up",
        )

    def _complain_of_the_dead(self) -> None:
        for entry in processes.known(self._daemons):
            if not processes.alive(entry):
                processes.forget(self._daemons, entry)
                raise ClusterError(
                    f"{entry.name} ended right after its start",
                    why=processes.tail(self._daemons, entry.name),
                    fix=f"read {self._daemons / entry.name}.log, then run: qaicl up",
                )

    # --- one node --------------------------------------------------------------------------------

    def add_node(self) -> str:
        """Start one more node and wait until it can be given work.

        Raises:
            UnreachableError: no local cluster runs.
        """
        with self._locked():
            if not self.running():
                raise UnreachableError("no local cluster runs", fix="run: qaicl up")
            spec = msgspec.json.decode((self._run / "cluster.json").read_bytes(), type=Specification)
            taken = {entry.name for entry in processes.known(self._daemons)}
            number = next(number for number in range(1, 10_000) if f"node-{number}" not in taken)
            name = f"node-{number}"
            self._spawn("node", name, spec, spec.store_url or self.valkey().url, self._binds([name])[name])
            self._wait({name})
        return name

    def ended_node(self, name: str, patience: float = 10.0) -> bool:
        """Wait for a removed local node to end and forget it; False where it is not a local one."""
        entry = next((entry for entry in processes.known(self._daemons) if entry.name == name), None)
        if entry is None:
            return False
        deadline = time.monotonic() + patience
        while processes.alive(entry) and time.monotonic() < deadline:
            time.sleep(0.02)
        processes.end([entry])
        processes.forget(self._daemons, entry)
        return True

    # --- down ------------------------------------------------------------------------------------

    def down(self) -> dict[str, Any]:
        """Stop everything, nodes first and the store last.

        Returns:
            ``stopped``: names; ``killed``: those that did not end when asked.
        """
        with self._locked():
            entries = processes.known(self._daemons)
            killed: list[processes.Running] = []
            for kind in ("node", "orchestrator"):
                killed += processes.end([entry for entry in entries if entry.kind == kind])
            stopped = [entry.name for entry in entries]
            for entry in entries:
                processes.forget(self._daemons, entry)
            valkey = self.valkey()
            if valkey.pid is not None:
                stopped.append("valkey")
            valkey.stop()
            (self._run / "cluster.json").unlink(missing_ok=True)
            (self._context / "endpoints.toml").unlink(missing_ok=True)
        return {"stopped": stopped, "killed": [entry.name for entry in killed]}

    def running(self) -> list[processes.Running]:
        """The daemons that run now."""
        return [entry for entry in processes.known(self._daemons) if processes.alive(entry)]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._run.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._run / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ClusterError(
                    f"another command starts or stops the cluster '{self.settings.context}' just now",
                    fix="wait for it to end and try again",
                ) from error
            yield


def _free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on, all different."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _free(bind: str) -> bool:
    host, _, port = bind.removeprefix("tcp://").rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except (OSError, ValueError):
            return False
        return True
