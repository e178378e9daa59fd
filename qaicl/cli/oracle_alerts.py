"""``qaicl oracle alerts``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from qaicl.cli.oracle_report import duration
from qaicl.cli.output import Format, Output, confirm, console, emit_json, say

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show, silence and test alerts.")


@app.callback()
def group() -> None:
    """Show, silence and test alerts."""


@app.command("list", epilog="Example: qaicl oracle alerts list")
def list_(ctx: typer.Context, output: Output = Format.text) -> None:
    """Show the alerts that fire now."""
    from qaicl import settings
    from qaicl.oracle.alerts.engine import AlertEngine
    from qaicl.oracle.opening import open_store

    loaded = settings.load(ctx.obj)
    with open_store(loaded) as store:
        active = AlertEngine(store, loaded.values.alerts).active()
    if output is Format.json:
        emit_json(active)
        return
    if not active:
        say("no alert fires")
        return
    from rich.table import Table

    table = Table("since", "level", "labels", "what", box=None)
    for alert in active:
        table.add_row(_at(alert.starts_at), alert.level, _labels(alert.labels), alert.summary)
    console().print(table)


@app.command(epilog="Example: qaicl oracle alerts history --limit 20 -o json")
def history(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many lines.")] = 50,
    output: Output = Format.text,
) -> None:
    """Show what happened, newest first: fired, resolved, notified, delivered."""
    from qaicl import settings
    from qaicl.oracle.alerts.engine import AlertEngine
    from qaicl.oracle.opening import open_store

    loaded = settings.load(ctx.obj)
    with open_store(loaded) as store:
        events = AlertEngine(store, loaded.values.alerts).history(limit)
    if output is Format.json:
        emit_json(events)
        return
    from rich.table import Table

    table = Table("at", "event", "level", "labels", "text", box=None)
    for event in events:
        table.add_row(_at(event.at), event.event, event.level, _labels(event.labels), event.text)
    console().print(table)


@app.command(epilog="Example: qaicl oracle alerts outbox")
def outbox(ctx: typer.Context, output: Output = Format.text) -> None:
    """Show the messages that are not delivered yet, and why."""
    from qaicl import settings
    from qaicl.oracle.alerts.outbox import Outbox
    from qaicl.oracle.opening import open_store

    loaded = settings.load(ctx.obj)
    with open_store(loaded) as store:
        waiting = Outbox(store, {}).waiting()
    if output is Format.json:
        emit_json(waiting)
        return
    if not waiting:
        say("every message is delivered")
        return
    from rich.table import Table

    table = Table("made", "sink", "state", "tries", "next", "subject", "reason", box=None)
    for one in waiting:
        row = (_at(one.created_at), one.sink, one.state, str(one.attempts), _at(one.next_at), one.subject, one.reason)
        table.add_row(*row)
    console().print(table)


@app.command(epilog="Example: qaicl oracle alerts retry --sink mail --yes")
def retry(
    ctx: typer.Context,
    sink: Annotated[str | None, typer.Option("--sink", help="Only this sink's messages.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    output: Output = Format.text,
) -> None:
    """Have refused and unknown messages sent again by the daemon, once what kept them is mended.

    An unknown one may have arrived before: `qaicl oracle alerts outbox` shows which they are.
    """
    from qaicl import settings
    from qaicl.oracle.alerts.outbox import Outbox
    from qaicl.oracle.opening import open_store

    confirm(f"Send what {sink or 'any sink'} refused again?", yes)
    with open_store(settings.load(ctx.obj)) as store:
        count = Outbox(store, {}).retry(sink)
    if output is Format.json:
        emit_json({"due_again": count})
    else:
        say(f"{count} messages are due again")


@app.command(epilog="Example: qaicl oracle alerts silence asset=qubic alert=risk --for 4h --reason maintenance")
def silence(
    ctx: typer.Context,
    labels: Annotated[list[str], typer.Argument(help="name=value; an alert must have them all.", metavar="LABEL...")],
    lasting: Annotated[str, typer.Option("--for", help="How long, such as 4h.")] = "4h",
    reason: Annotated[str, typer.Option("--reason", help="Why, for those who wonder.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    output: Output = Format.text,
) -> None:
    """Keep alerts with these labels quiet for a time. They go on being recorded."""
    from qaicl import settings
    from qaicl.errors import UsageError
    from qaicl.oracle.alerts.engine import AlertEngine
    from qaicl.oracle.opening import open_store

    match = {}
    for label in labels:
        name, equals, value = label.partition("=")
        if not (name and equals and value):
            raise UsageError(f"'{label}' is not a label", why="it is name=value", fix="write asset=qubic")
        match[name] = value
    span = duration(lasting)
    confirm(f"Silence {_labels(match)} for {lasting}?", yes)
    loaded = settings.load(ctx.obj)
    with open_store(loaded) as store:
        made = AlertEngine(store, loaded.values.alerts).silence(match, span, reason, datetime.now(UTC))
    if output is Format.json:
        emit_json(made)
        return
    typer.echo(f"{made.id}  {_labels(made.match)}  until {_at(made.ends_at)}")


@app.command(epilog="Example: qaicl oracle alerts silences")
def silences(ctx: typer.Context, output: Output = Format.text) -> None:
    """Show the silences in force."""
    from qaicl import settings
    from qaicl.oracle.alerts.engine import AlertEngine
    from qaicl.oracle.opening import open_store

    loaded = settings.load(ctx.obj)
    with open_store(loaded) as store:
        found = AlertEngine(store, loaded.values.alerts).silences(datetime.now(UTC))
    if output is Format.json:
        emit_json(found)
        return
    for one in found:
        typer.echo(f"{one.id}  {_labels(one.match)}  until {_at(one.ends_at)}  {one.reason}".rstrip())
    if not found:
        say("nothing is silenced")


@app.command(epilog="Example: qaicl oracle alerts unsilence 1f2e3d4c")
def unsilence(
    ctx: typer.Context,
    identity: Annotated[str, typer.Argument(metavar="ID", help="As `qaicl oracle alerts silences` shows it.")],
    output: Output = Format.text,
) -> None:
    """End a silence now."""
    from qaicl import settings
    from qaicl.oracle.alerts.engine import AlertEngine
    from qaicl.oracle.opening import open_store

    loaded = settings.load(ctx.obj)
    with open_store(loaded) as store:
        AlertEngine(store, loaded.values.alerts).end_silence(identity, datetime.now(UTC))
    if output is Format.json:
        emit_json({"ended": identity})
    else:
        say(f"silence {identity} has ended")


@app.command(epilog="Example: qaicl oracle alerts test log --yes")
def test(
    ctx: typer.Context,
    sink: Annotated[str, typer.Argument(help="A sink of alerts.sinks.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    output: Output = Format.text,
) -> None:
    """Send one test message to a sink, past the outbox, and say whether it was taken."""
    from qaicl import settings
    from qaicl.errors import UsageError
    from qaicl.oracle.alerts.model import test_message
    from qaicl.oracle.alerts.sinks import sinks

    loaded = settings.load(ctx.obj)
    made = sinks(loaded.values.alerts, loaded.paths, loaded.context)
    if sink not in made:
        raise UsageError(f"there is no sink '{sink}'", why=f"known are {', '.join(made)}", fix="add it to alerts.sinks")
    confirm(f"Send a test message to {sink}?", yes)
    made[sink].deliver(test_message(datetime.now(UTC)))
    if output is Format.json:
        emit_json({"taken_by": sink})
    else:
        say(f"{sink} took the test message")


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def _labels(labels: dict[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in labels.items())
