"""Upgrading a running cluster: machine by machine, drained first, back to the old release if the new one fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from qaicl.errors import ClusterError, HostUnreachableError, ProvisionError, QaiclError
from qaicl.provision import apply
from qaicl.provision.identity import orchestrator_name
from qaicl.provision.inventory import Host
from qaicl.provision.provisioning import Choice, Provisioning
from qaicl.provision.session import Machine
from qaicl.wire.client import Client
from qaicl.wire.messages import Done, NodeCommand, StatusQuery, StatusReply

DRAIN_SECONDS = 120.0
"""For what runs on a node to end; what takes longer moves to another node when the daemon stops."""
HEALTHY_SECONDS = 180.0
"""For a daemon of the new release to serve; loading and measuring the model is most of it."""
LINK = "/opt/qaicl/current"


class _Cluster:
    def __init__(self, context: Path) -> None:
        self._context = context

    def status(self) -> dict[str, Any]:
        with Client(self._context) as client:
            return client.call(StatusQuery(), StatusReply).status

    def command(self, node: str, action: Literal["drain", "resume"]) -> None:
        with Client(self._context) as client:
            client.call(NodeCommand(node, action), Done)

    def node(self, name: str) -> dict[str, Any]:
        return next((node for node in self.status()["nodes"] if node["name"] == name), {})


def run(provisioning: Provisioning, choice: Choice) -> list[str]:
    """Upgrade the machines that differ; the leader's comes last.

    Returns:
        The machines that changed.

    Raises:
        ProvisionError: a machine is not well with the new release; it is back at the old one, the rest is untouched.
    """
    cluster = _Cluster(provisioning.context_directory)
    leader = cluster.status()["leader"]
    hosts = provisioning.inventory.limited(choice.limit)
    order = sorted(hosts, key=lambda host: (orchestrator_name(host) == leader, host.has("orchestrator")))
    return [host.name for host in order if _one(provisioning, cluster, host)]


def _one(provisioning: Provisioning, cluster: _Cluster, host: Host) -> bool:
    choice = Choice((host.name,))
    with provisioning.session(choice, locked=True) as session:
        plans = provisioning.plan(session, choice)
        if failure := apply.verdict(session.failures, ()):
            raise failure
        if not plans[0].changes:
            provisioning.events("upgrade", host.name, text="is up to date")
            return False
        machine = session.machines[0]
        before = machine.connection.run(f"readlink {LINK} || true").text.strip()
        restarts = any("service:qaicl-node" in entry.change.touches for entry in plans[0].changes if entry.change)
        old_pid = cluster.node(host.name).get("pid") if restarts else None
        with _drained(provisioning, cluster, host):
            outcome = provisioning.apply(session, plans)[0]
            try:
                if failure := apply.verdict({}, [outcome]):
                    raise failure
                _until(
                    lambda: _well(cluster, host, old_pid),
                    HEALTHY_SECONDS,
                    f"{host.name} does not serve with the new release",
                )
            except QaiclError as error:
                raise _go_back(provisioning, machine, before, outcome, error) from error
        provisioning.events("upgrade", host.name, text="serves with the new release", ok=True)
        return True


@contextmanager
def _drained(provisioning: Provisioning, cluster: _Cluster, host: Host) -> Iterator[None]:
    """Without work on the host's node; afterwards the node takes work again, however it ended."""
    node = cluster.node(host.name)
    if not host.has("node") or node.get("state") != "alive":
        yield
        return
    provisioning.events("upgrade", host.name, text="draining")
    cluster.command(host.name, "drain")
    try:
        end = time.monotonic() + DRAIN_SECONDS
        while cluster.node(host.name).get("running") and time.monotonic() < end:
            time.sleep(0.2)
        yield
    finally:
        try:
            # A daemon that was restarted has forgotten it.
            if cluster.node(host.name).get("state") == "draining":
                cluster.command(host.name, "resume")
        except ClusterError as error:
            text = f"may still be drained ({error.what}): qaicl node drain {host.name} --undo"
            provisioning.events("upgrade", host.name, text=text, ok=False)


def _well(cluster: _Cluster, host: Host, old_pid: int | None) -> bool:
    """Whether the cluster answers and counts the host's node in, as another process than before."""
    try:
        status = cluster.status()
    except ClusterError:
        return False
    if not host.has("node"):
        return True
    mine = [node for node in status["nodes"] if node["name"] == host.name and node["pid"] != old_pid]
    return any(node["state"] in ("alive", "draining") for node in mine)


def _until(condition: Callable[[], bool], seconds: float, complaint: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise ProvisionError(complaint, why=f"not within {seconds:g} s", fix="look at what its daemons say")
        time.sleep(0.3)


def _go_back(
    provisioning: Provisioning, machine: Machine, release: str, outcome: apply.Outcome, error: QaiclError
) -> ProvisionError:
    """Undo every step of the upgrade, start the old daemons, and give the error that says so."""
    host = machine.host.name
    name = release.rpartition("/")[2] or "what it had"
    why = error.why or error.what
    provisioning.events("upgrade", host, text=f"going back to {name}", ok=False)
    try:
        stays = provisioning.take_back(machine, outcome)
        machine.connection.run(
            "for u in qaicl-orchestrator qaicl-node; do\n"
            "  systemctl is-enabled --quiet $u 2>/dev/null || continue\n"
            "  systemctl reset-failed $u; systemctl restart $u\ndone; true"
        )
    except HostUnreachableError as gone:
        return HostUnreachableError(
            f"{host} is half upgraded",
            why=f"{why}; and on the way back: {gone.what}",
            fix="when it is there again, run the upgrade again; the machines after it were not touched",
        )
    if stays:
        provisioning.events("upgrade", host, text=f"not taken back: {', '.join(stays)}", ok=False)
    return ProvisionError(
        f"{host} is back at {name}",
        why=why,
        fix="look at `journalctl -u 'qaicl-*'` there; the machines after it were not touched",
    )
