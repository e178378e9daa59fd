"""What ``qaicl doctor`` looks at."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil

from qaicl.daemon import processes
from qaicl.errors import QaiclError
from qaicl.settings import Settings
from qaicl.wire.client import Client
from qaicl.wire.messages import StatusQuery, StatusReply

LEAST_FREE_DISK = 2 * 1024**3
LEAST_FREE_MEMORY = 1024**3


class Finding(msgspec.Struct, frozen=True):
    """One check: what was looked at, what was found, and what to do where it is not well."""

    check: str
    ok: bool
    found: str
    fix: str = ""


def diagnose(settings: Settings) -> list[Finding]:
    """All checks of this machine and of the context's cluster, in the order in which one would mend them."""
    return [*_machine(settings), *_keys(settings), *_model(settings), *_daemons(settings), *_cluster(settings)]


def _machine(settings: Settings) -> Iterator[Finding]:
    place = next(path for path in (settings.paths.data, *settings.paths.data.parents) if path.exists())
    free = shutil.disk_usage(place).free
    roomy = free >= LEAST_FREE_DISK
    yield Finding("disk", roomy, f"{free / 1e9:.1f} GB free at {place}", "" if roomy else "free at least 2 GB")
    memory = psutil.virtual_memory().available
    enough = memory >= LEAST_FREE_MEMORY
    yield Finding("memory", enough, f"{memory / 1e9:.1f} GB available", "" if enough else "stop something else")


def _keys(settings: Settings) -> Iterator[Finding]:
    directory = settings.paths.context(settings.context) / "keys"
    if not directory.is_dir():
        yield Finding("keys", True, "none yet; qaicl up makes them")
        return
    loose = [path for path in sorted(directory.glob("*.key_secret")) if stat.S_IMODE(path.stat().st_mode) & 0o077]
    for path in loose:
        yield Finding("keys", False, f"{path} can be read by others", f"run: chmod 600 {path}")
    if not loose:
        yield Finding("keys", True, f"secret keys in {directory} belong to their owner alone")


def _model(settings: Settings) -> Iterator[Finding]:
    name = settings.values.cluster.model
    if name == "echo":
        return
    from qaicl.models.store import Store

    store = Store(settings.paths.models(settings.values.models))
    try:
        yield Finding("model", True, f"{name} is in {store.open(name)}")
    except QaiclError as error:
        yield Finding("model", False, str(error.what), error.fix or f"run: qaicl model pull {name}")


def _daemons(settings: Settings) -> Iterator[Finding]:
    directory: Path = settings.paths.run(settings.context) / "daemons"
    for entry in processes.known(directory):
        if processes.alive(entry):
            continue
        yield Finding(
            entry.name, False, "its process has ended", f"run: qaicl up; its log is {directory / entry.name}.log"
        )


def _cluster(settings: Settings) -> Iterator[Finding]:
    try:
        with Client(settings.paths.context(settings.context), patience=5.0) as client:
            status = client.call(StatusQuery(), StatusReply).status
    except QaiclError as error:
        yield Finding("cluster", False, f"{error.what}: {error.why}", error.fix)
        return
    yield Finding("cluster", True, f"{status['leader']} leads, epoch {status['epoch']}")
    up = status["store"] == "up"
    yield Finding(
        "store", up, f"the store is {status['store']}", "" if up else "start Redis or Valkey again; locally: qaicl up"
    )
    nodes = status["nodes"]
    assert isinstance(nodes, list)
    if not nodes:
        yield Finding("nodes", False, "no node has registered", "run: qaicl up")
    for node in nodes:
        well = node["state"] in ("alive", "draining") and not node["unreachable"]
        cut = f"; cannot reach {', '.join(node['unreachable'])}" if node["unreachable"] else ""
        fix = "" if well else "check the process and the network between the nodes"
        yield Finding(node["name"], well, f"{node['state']}{cut}", fix)
