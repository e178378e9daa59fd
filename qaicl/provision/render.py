"""A run for the eyes: a live line a machine on a terminal, plain lines elsewhere, JSON lines with ``-o json``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import msgspec

from qaicl.provision.checks import Finding
from qaicl.provision.events import Event, Listener
from qaicl.provision.plan import SavedPlan


def json_line(event: Event) -> None:
    """One event on stdout."""
    sys.stdout.write(msgspec.json.encode(event).decode() + "\n")
    sys.stdout.flush()


def sentence(event: Event) -> str:
    """An event as a line; empty where it is not worth one."""
    took = f" ({event.seconds:.1f} s)" if event.seconds >= 0.05 else ""
    host = event.host
    if event.kind == "step-done":
        return f"{host}: {event.name}{took}"
    if event.kind == "step-failed":
        return f"{host}: FAILED {event.name}: {event.text}"
    if event.kind == "host-done":
        return f"{host}: done, {event.changes} changed{took}" if event.ok else f"{host}: not done: {event.text}"
    if event.kind == "host-unreachable":
        return f"{host}: {event.text}"
    if event.kind == "rebooting":
        return f"{host}: rebooting …"
    if event.kind == "rebooted":
        return f"{host}: is back{took}"
    if event.kind == "context-written":
        return f"context '{event.name}' written"
    if event.kind == "upgrade":
        return f"{host}: {event.text}"
    return ""


def plain(event: Event) -> None:
    """One line on stderr."""
    if line := sentence(event):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


@contextmanager
def live() -> Iterator[Listener]:
    """Lines above, and below them what each machine is doing now."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

    name, doing = TextColumn("{task.fields[host]}", markup=False), TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), name, BarColumn(20), doing)
    console = Console(stderr=True, highlight=False)
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def listen(event: Event) -> None:
            if event.host and event.host not in tasks:
                tasks[event.host] = progress.add_task("", total=None, host=event.host)
            if event.kind == "planned":
                progress.update(tasks[event.host], total=max(event.changes, 1), completed=0)
            elif event.kind == "step-started":
                progress.update(tasks[event.host], description=event.name)
            elif event.kind == "upload":
                share = 100 * event.done / max(event.total, 1)
                progress.update(tasks[event.host], description=f"{event.name} {share:.0f} %")
            elif event.kind == "step-done":
                progress.advance(tasks[event.host])
            if line := sentence(event):
                progress.console.print(line, markup=False)

        yield listen


def plan_lines(plan: SavedPlan) -> Iterator[str]:
    """A plan for a person."""
    for host in plan.hosts:
        skipped = f", {len(host.skipped)} skipped" if host.skipped else ""
        yield f"{host.name}: {len(host.changes)} to change, {host.unchanged} as they should be{skipped}"
        reasons: dict[str, int] = {}
        for entry in host.skipped:
            if not entry["reason"].startswith("not for a host"):
                reasons[entry["reason"]] = reasons.get(entry["reason"], 0) + 1
        for reason, count in reasons.items():
            yield f"  - skipped {count}: {reason}"
        for change in host.changes:
            why = f", for {change.why}" if change.why else ""
            kept = "" if change.undo else " [irreversible]"
            yield f"  ~ {change.id}: {change.reason}{why}{kept}"
            yield from (f"      {line}" for line in change.diff.splitlines())


def check_table(findings: Iterable[Finding]) -> None:
    """The checks as a table, with a fix below each failure."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("machine", "check", "", "found", box=None)
    marks = {True: "ok", False: "FAILED", None: "skipped"}
    for finding in findings:
        found = finding.found + (f"\n  do: {finding.fix}" if finding.fix else "")
        # Texts, so that brackets in what a machine said are not taken for markup.
        table.add_row(*(Text(cell) for cell in (finding.host, finding.check, marks[finding.ok], found)))
    Console(highlight=False, soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 200).print(table)
