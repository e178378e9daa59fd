"""The machines of a run: connected, locked, looked at."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import paramiko

from qaicl.errors import (
    HostRefusedError,
    HostUnreachableError,
    QaiclError,
    UnsupportedHostError,
    WrongHostKeyError,
)
from qaicl.provision import facts as facts_module
from qaicl.provision import lock, plan
from qaicl.provision.events import Events, Kind
from qaicl.provision.facts import Facts
from qaicl.provision.inventory import Host
from qaicl.provision.playbook import Playbooks, selected
from qaicl.provision.secrets import SecretStore
from qaicl.provision.ssh import Connection, unreachable
from qaicl.provision.variables import Sources, variables

Item = TypeVar("Item")
T = TypeVar("T")


@dataclass
class Machine:
    """A host during a run."""

    host: Host
    connection: Connection
    facts: Facts
    held: paramiko.Channel | None = None

    def release(self) -> None:
        """Give the lock back and hang up."""
        if self.held is not None:
            self.held.close()
            self.held = None
        self.connection.close()


@dataclass
class Session:
    """All machines of a run, and those that could not be had.

    Args:
        connect_timeout: seconds.
    """

    secrets: SecretStore
    events: Events
    connect_timeout: float
    machines: list[Machine] = field(default_factory=list)
    failures: dict[str, QaiclError] = field(default_factory=dict)
    closed: bool = False

    def connect(self, hosts: Iterable[Host]) -> None:
        """Connect to all hosts at once. One that does not answer is left out and remembered.

        Raises:
            HostRefusedError: a wrong host key, a refused key, no way to root: nothing is done anywhere then.
        """
        chosen = list(hosts)
        refused: list[HostRefusedError] = []

        def one(host: Host) -> Machine | None:
            try:
                return self._machine(host)
            except HostRefusedError as error:
                refused.append(error)
            except QaiclError as error:
                self.failed(host.name, error)
            return None

        self.machines += [machine for machine in in_parallel(one, chosen) if machine is not None]
        if refused:
            self.close()
            raise refused[0]

    def _machine(self, host: Host) -> Machine:
        begun = time.monotonic()
        connection = self.open(host)
        try:
            found = read_facts(connection)
            if why := facts_module.unsupported(found):
                raise UnsupportedHostError(
                    f"{host.name} is not a machine that the playbooks know",
                    why=why,
                    fix="use Debian 12 or later, or Ubuntu 24.04 or later, with systemd",
                )
        except BaseException:
            connection.close()
            raise
        self.events("connected", host.name, seconds=time.monotonic() - begun, text=f"{found.os} {found.os_version}")
        return Machine(host, connection, found)

    def open(self, host: Host) -> Connection:
        """A new connection to a host."""
        if self.closed:
            raise unreachable(host, "the run was ended here")
        return Connection.open(
            host, timeout=self.connect_timeout, sudo_password=lambda: self.secrets.given("sudo_password")
        )

    def failed(self, host: str, error: QaiclError) -> None:
        """Remember that a machine could not be had, and why."""
        self.failures[host] = error
        self._tell(host, error)

    def tell_again(self, plans: Iterable[plan.HostPlan]) -> None:
        """Repeat, for a listener that came later, what could not be had and how much is to be done."""
        for host, error in self.failures.items():
            self._tell(host, error)
        for entry in plans:
            self.events("planned", entry.host, changes=len(entry.changes))

    def _tell(self, host: str, error: QaiclError) -> None:
        kind: Kind = "host-unreachable" if isinstance(error, HostUnreachableError) else "host-done"
        self.events(kind, host, text=str(error), ok=False)

    def lock(self) -> None:
        """Take every machine's lock.

        Raises:
            LockedError: another controller is at work on one; the others are let go.
        """
        try:
            for machine in self.machines:
                machine.held = lock.acquire(machine.connection)
                self.events("locked", machine.host.name)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let all machines go; what still runs on one of them over this session fails, and nothing new begins."""
        self.closed = True
        for machine in self.machines:
            machine.release()

    def plans(
        self, playbooks: Playbooks, playbook: str, sources: Sources, tags: tuple[str, ...]
    ) -> list[plan.HostPlan]:
        """What each machine lacks; a machine that stops answering meanwhile is left out."""

        def one(machine: Machine) -> plan.HostPlan | None:
            try:
                return look(machine, playbooks, playbook, sources, tags)
            except HostUnreachableError as error:
                self.failed(machine.host.name, error)
                return None

        found = [entry for entry in in_parallel(one, self.machines, interrupt=self.close) if entry is not None]
        for entry in found:
            self.events("planned", entry.host, changes=len(entry.changes))
        return found


def in_parallel(
    call: Callable[[Item], T], items: Sequence[Item], interrupt: Callable[[], None] | None = None
) -> list[T]:
    """The call's results in order; the first error after all have ended.

    Args:
        interrupt: makes the calls end soon; used when the person at the terminal ends the run.
    """
    if not items:
        return []
    with ThreadPoolExecutor(len(items), thread_name_prefix="host") as pool:
        running = [pool.submit(call, item) for item in items]
        try:
            return [future.result() for future in running]
        except KeyboardInterrupt:
            if interrupt is not None:
                interrupt()
            raise


def read_facts(connection: Connection) -> Facts:
    """Ask a machine what it is.

    Raises:
        HostRefusedError: it lets us in but runs no command, as for a user without a shell.
    """
    result = connection.run(facts_module.SCRIPT, timeout=30.0)
    found = facts_module.parse(result.text)
    if not found.boot_id:
        said = (result.error_text.strip() or result.text.strip()).splitlines()
        raise HostRefusedError(
            f"{connection.host.name} runs no command for {connection.host.user}",
            why=said[-1] if said else f"exit status {result.status}",
            fix="give the user a shell there, or name another one in the inventory",
        )
    return found


def look(
    machine: Machine, playbooks: Playbooks, playbook: str, sources: Sources, tags: tuple[str, ...]
) -> plan.HostPlan:
    """One machine's plan: its steps rendered, all their questions asked in one round trip."""
    steps = playbooks.steps(playbook, machine.host, variables(sources, machine.host, machine.facts))
    chosen = [step for step in steps if selected(step, tags)]
    script, keys = plan.probe_script(plan.step_probes(chosen))
    answers = machine.connection.run(script, timeout=120.0)
    found = plan.parse_probes(answers.text, keys)
    return plan.plan_host(machine.host.name, machine.facts, chosen, found, sources.packages)


def wait_for_boot(session: Session, machine: Machine, timeout: float) -> None:
    """Connect anew when the machine has booted anew, and take its lock again.

    Raises:
        HostUnreachableError: it is not back in ``timeout`` seconds.
        HostRefusedError: it is back and does not let us in.
    """
    before = machine.facts.boot
    machine.release()
    end = time.monotonic() + timeout
    pause = threading.Event()
    last: QaiclError = unreachable(machine.host, f"it has not come back within {timeout:g} s of its reboot")
    while time.monotonic() < end and not session.closed:
        try:
            connection = session.open(machine.host)
            try:
                found = read_facts(connection)
                if found.boot != before:
                    machine.held = lock.acquire(connection)
                    machine.connection, machine.facts = connection, found
                    return
            except BaseException:
                connection.close()
                raise
            connection.close()
        except WrongHostKeyError:
            raise
        except HostRefusedError as error:
            last = error  # on its way down and up a machine lets nobody in but root (nologin)
        except HostUnreachableError:
            pass  # still going down, or not up yet
        pause.wait(0.3)
    raise last
