"""Carrying a plan out: hosts in parallel, each step journalled before and after."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qaicl.errors import HostUnreachableError, LockedError, ProvisionError, QaiclError, StepFailedError
from qaicl.provision.events import Events
from qaicl.provision.install import install
from qaicl.provision.journal import Journal
from qaicl.provision.lock import guarded
from qaicl.provision.operations.base import Action, Command, Install, Reboot, quote
from qaicl.provision.plan import HostPlan, PlannedStep
from qaicl.provision.playbook import Step
from qaicl.provision.session import Machine, Session, in_parallel, wait_for_boot
from qaicl.provision.upload import Progress, push

_KNOWN = (
    ("No space left on device", "its disk is full", "free some space there, then run it again"),
    ("DO NOT MATCH THE HASHES", "a wheel has a wrong checksum", "run: qaicl provision bundle --verify"),
    ("wrong checksum", "a download has a wrong checksum", "correct the sha256, or find out who changed the file"),
    ("Temporary failure resolving", "the package mirror does not answer", ""),
    ("Could not connect to", "the package mirror does not answer", ""),
    ("Unable to connect to", "the package mirror does not answer", ""),
    ("Failed to fetch", "the package mirror does not answer properly", ""),
    ("Unable to locate package", "the package mirror does not have the package", ""),
)
_MIRROR_FIX = "check /etc/apt/sources.list and the network there, then run it again"


@dataclass(frozen=True)
class Outcome:
    """How one host ended."""

    host: str
    done: tuple[PlannedStep, ...]
    """The steps that were carried out, in order."""
    seconds: float
    error: QaiclError | None = None


def run(
    session: Session, plans: Sequence[HostPlan], journal_directory: Path, run_id: str, redact: Callable[[str], str]
) -> list[Outcome]:
    """Carry the plans out on all machines at once; one that fails does not stop the others."""
    machines = {machine.host.name: machine for machine in session.machines}

    def one(plan: HostPlan) -> Outcome:
        machine = machines[plan.host]
        worker = _Worker(session, machine, Journal(journal_directory, plan.host, run_id), session.events, redact)
        begun = time.monotonic()
        error: QaiclError | None = None
        try:
            worker.carry_out(plan)
        except QaiclError as raised:
            error = raised
        outcome = Outcome(plan.host, tuple(worker.done), time.monotonic() - begun, error)
        session.events(
            "host-done",
            plan.host,
            changes=len(outcome.done),
            seconds=outcome.seconds,
            text=str(error) if error else "",
            ok=error is None,
        )
        return outcome

    return in_parallel(one, plans, interrupt=session.close)


def take_back(
    machine: Machine, done: Sequence[PlannedStep], journal: Journal, redact: Callable[[str], str]
) -> list[str]:
    """Undo steps that were carried out, the last one first.

    Returns:
        What stays, each with its reason: irreversible steps, and those whose undoing failed.

    Raises:
        HostUnreachableError: the machine is gone; the journal says how far it came.
    """
    stays = []
    for entry in reversed(done):
        step, change = entry.step, entry.change
        assert isinstance(step, Step) and change is not None
        if change.undo is None:
            stays.append(f"{step.id} (irreversible)")
            continue
        for command in change.undo:
            result = machine.connection.run(guarded(command.script), stdin=command.stdin, timeout=command.timeout)
            if result.status != 0:
                stays.append(f"{step.id} ({redact((result.error_text or result.text).strip()[-200:])})")
                break
        else:
            journal.write("undone", step.id)
    return stays


class _Worker:
    def __init__(
        self, session: Session, machine: Machine, journal: Journal, events: Events, redact: Callable[[str], str]
    ) -> None:
        self._session = session
        self._machine = machine
        self._journal = journal
        self._events = events
        self._redact = redact
        self.done: list[PlannedStep] = []

    def carry_out(self, plan: HostPlan) -> None:
        self._journal.write("run-started", text=f"{len(plan.changes)} changes")
        try:
            for entry in plan.changes:
                self._step(entry)
        except QaiclError as error:
            ended = "the run was ended by the operator"
            self._journal.write("run-failed", text=ended if self._session.closed else self._redact(str(error)))
            raise
        self._journal.write("run-done")

    def _step(self, entry: PlannedStep) -> None:
        step, change = entry.step, entry.change
        assert isinstance(step, Step) and change is not None
        host = self._machine.host.name
        undo = [self._redact(command.script) for command in change.undo or ()]
        self._journal.write("started", step.id, text=self._redact(change.reason), undo=undo)
        self._events("step-started", host, step=step.id, name=step.name, text=change.reason)
        begun = time.monotonic()
        done = 0
        try:
            for action in change.actions:
                self._act(action, step)
                done += 1
        except QaiclError as error:
            seconds = time.monotonic() - begun
            self._events("step-failed", host, step=step.id, name=step.name, text=str(error), seconds=seconds, ok=False)
            self._journal.write("failed", step.id, text=self._redact(str(error)), seconds=seconds)
            if done and change.undo and not isinstance(error, HostUnreachableError):
                self._take_back(entry)
            raise
        seconds = time.monotonic() - begun
        self.done.append(entry)
        self._journal.write("done", step.id, seconds=seconds)
        self._events("step-done", host, step=step.id, name=step.name, text=change.reason, seconds=seconds, ok=True)

    def _take_back(self, entry: PlannedStep) -> None:
        """A step of several commands that failed in the middle is not left half done."""
        try:
            stays = take_back(self._machine, [entry], self._journal, self._redact)
        except HostUnreachableError as error:
            stays = [error.why]  # what the step itself said matters more than that the machine went meanwhile
        for what in stays:
            self._journal.write("failed", entry.step.id, text=f"not taken back: {self._redact(what)}")

    def _still_ours(self) -> None:
        """Make sure that nobody has taken the machine's lock meanwhile.

        Raises:
            LockedError: somebody has; what is left is theirs to do.
            HostUnreachableError: the lock is gone because the connection is.
        """
        machine = self._machine
        if machine.held is not None and machine.held.exit_status_ready():
            machine.connection.run("true", timeout=20.0)
            raise LockedError(
                f"the lock of {machine.host.name} was taken away during the run",
                why="the process that held it there has ended, as after `qaicl provision unlock`",
                fix="when whoever took it is done, run it again: it goes on where it was",
            )

    def _act(self, action: Action, step: Step) -> None:
        machine = self._machine
        self._still_ours()
        if isinstance(action, Command):
            result = machine.connection.run(guarded(action.script), stdin=action.stdin, timeout=action.timeout)
            if result.status != 0:
                raise self._failure(step, result.status, result.error_text or result.text)
        elif isinstance(action, Reboot):
            self._reboot(action, step)
        elif isinstance(action, Install):
            install(machine.connection, action, step.name, self._progress(step))
        else:
            push(machine.connection, action, self._progress(step))

    def _progress(self, step: Step) -> Progress:
        host = self._machine.host.name
        last = [0.0]

        def progress(name: str, done: int, total: int) -> None:
            now = time.monotonic()
            if done == total or now - last[0] > 0.5:
                last[0] = now
                self._events("upload", host, step=step.id, name=name, done=done, total=total)

        return progress

    def _reboot(self, action: Reboot, step: Step) -> None:
        machine = self._machine
        if action.marker:
            text = f'install -d -m 0700 "$(dirname {quote(action.marker)})" && cat > {quote(action.marker)}'
            machine.connection.run(text, stdin=machine.facts.boot.encode() + b"\n")
        self._journal.write("rebooting", step.id)
        self._events("rebooting", machine.host.name, step=step.id)
        begun = time.monotonic()
        # Detached, so that the answer comes before the connection goes.
        machine.connection.run("sync; (sleep 0.5; systemctl reboot) >/dev/null 2>&1 </dev/null &\n", stdin=b"")
        wait_for_boot(self._session, machine, action.timeout)
        self._journal.write("rebooted", step.id)
        self._events("rebooted", machine.host.name, step=step.id, seconds=time.monotonic() - begun)

    def _failure(self, step: Step, status: int, said: str) -> StepFailedError:
        host = self._machine.host.name
        tail = " / ".join(line.strip() for line in said.strip().splitlines()[-6:] if line.strip())
        for sign, meaning, fix in _KNOWN:
            if sign in said:
                why = f"{meaning}: {tail}"
                return StepFailedError(f"{step.name} failed on {host}", why=self._redact(why), fix=fix or _MIRROR_FIX)
        return StepFailedError(
            f"{step.name} failed on {host}",
            why=self._redact(tail or f"exit status {status}"),
            fix="mend that, then run it again: it goes on where it was",
        )


def verdict(failures: dict[str, QaiclError], outcomes: Iterable[Outcome]) -> ProvisionError | None:
    """One error for the whole run: the only one there was, or one that names every host; None where all went well."""
    errors = dict(failures) | {outcome.host: outcome.error for outcome in outcomes if outcome.error is not None}
    if not errors:
        return None
    # Not authorised before unreachable before failed: the first needs a person's eye most.
    worst = max(errors.values(), key=lambda error: error.exit_code if error.exit_code in (4, 5) else 0)
    if len(errors) == 1 and isinstance(worst, ProvisionError):
        return worst
    text = "; ".join(
        f"{host}: {error.what}" + (f" ({error.why})" if error.why else "") for host, error in errors.items()
    )
    error_class = type(worst) if isinstance(worst, ProvisionError) else ProvisionError
    return error_class(f"{len(errors)} machines are not done", why=text, fix=worst.fix)
