"""``qaicl oracle sources``."""

from __future__ import annotations

from typing import Annotated

import typer

from qaicl.cli.output import Format, Output, console, emit_json

app = typer.Typer()


@app.command(epilog="Example: qaicl oracle sources --quarantine")
def sources(
    ctx: typer.Context,
    source: Annotated[str | None, typer.Option("--source", help="Only this one.")] = None,
    quarantine: Annotated[bool, typer.Option("--quarantine", help="Show what could not be believed, and why.")] = False,
    output: Output = Format.text,
) -> None:
    """Show each source: whether it is asked, last success, failures, calls used today."""
    from qaicl import settings
    from qaicl.oracle.keys import load_keys
    from qaicl.oracle.opening import open_store
    from qaicl.oracle.overview import overview

    loaded = settings.load(ctx.obj)
    keys = load_keys(loaded.values.oracle, loaded.paths, loaded.context)
    from rich.table import Table

    with open_store(loaded) as store:
        if quarantine:
            rows = [entry for entry in store.quarantined() if source in (None, entry.source)]
            if output is Format.json:
                emit_json(rows)
                return
            table = Table("source", "times", "last seen", "reason", box=None)
            for entry in rows:
                table.add_row(entry.source, str(entry.times), f"{entry.last_seen:%Y-%m-%d %H:%M}", entry.reason)
            console().print(table)
            return
        states = overview(store, loaded.values.oracle, keys, only=source)
    if output is Format.json:
        emit_json(states)
        return
    table = Table("source", "state", "last success", "calls today", "reason", box=None)
    for one in states:
        last = f"{one.last_success:%Y-%m-%d %H:%M}" if one.last_success else "never"
        calls = f"{one.calls_today} of {one.calls_a_day}" if one.calls_a_day else str(one.calls_today)
        table.add_row(one.source, one.state, last, calls, one.reason)
    console().print(table)
