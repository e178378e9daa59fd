"""``qaicl oracle collect``."""

from __future__ import annotations

from typing import Annotated

import typer

from qaicl.cli.output import Format, Output, emit_json, say

app = typer.Typer()


@app.command(epilog="Example: qaicl oracle collect --source coingecko --source rss:coindesk")
def collect(
    ctx: typer.Context,
    source: Annotated[list[str] | None, typer.Option("--source", help="Ask only this source; repeatable.")] = None,
    output: Output = Format.text,
) -> None:
    """Fetch from every source once and store what is new.

    Safe to run twice or to be interrupted: the next run fetches what is missing.
    """
    import asyncio

    from qaicl import settings
    from qaicl.errors import UnreachableError
    from qaicl.oracle.collect import collect as refresh
    from qaicl.oracle.keys import load_keys
    from qaicl.oracle.opening import open_store

    loaded = settings.load(ctx.obj)
    keys = load_keys(loaded.values.oracle, loaded.paths, loaded.context)
    with open_store(loaded) as store:
        result = asyncio.run(
            refresh(
                store,
                loaded.values.oracle,
                keys,
                only=source or (),
                on_batch=lambda batch, stored: say(f"{batch.source}: {_counts(stored)}"),
            )
        )
    if output is Format.json:
        emit_json(result)
    else:
        _table(result)
    for failed in result.failed:
        say(f"warning: {failed.source} failed: {failed.reason}")
    if result.silent and not any(one.status == "ok" for one in result.sources):
        raise UnreachableError(
            "no source answered",
            why=f"{len(result.silent)} of {len(result.sources)} failed, now or before, and are left alone for a while",
            fix="check the network; what is stored is kept: qaicl oracle sources",
        )


def _counts(stored: object) -> str:
    import msgspec

    counts = msgspec.to_builtins(stored)
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing new"


def _table(result: object) -> None:
    from rich.table import Table

    from qaicl.cli.output import console
    from qaicl.oracle.collect import Collected

    assert isinstance(result, Collected)
    table = Table("source", "status", "new", "reason", box=None)
    for one in result.sources:
        table.add_row(one.source, one.status, _counts(one.stored), one.reason)
    console().print(table)
