"""``qaicl oracle price``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from qaicl.cli.output import Format, Output, console, emit_json, say

if TYPE_CHECKING:
    from qaicl.oracle.observations import Figure

app = typer.Typer()


@app.command(epilog="Example: qaicl oracle price --asset bitcoin")
def price(
    ctx: typer.Context,
    asset: Annotated[
        str | None, typer.Option("--asset", help="An asset of the settings; the first by default.")
    ] = None,
    recorded: Annotated[bool, typer.Option("--recorded", help="Use the observations that ship with qaicl.")] = False,
    output: Output = Format.text,
) -> None:
    """Show an asset's price from the store: median, interval, sources, age, state."""
    from qaicl import settings
    from qaicl.oracle.opening import known_asset, open_store
    from qaicl.oracle.snapshot import Snapshot

    loaded = settings.load(ctx.obj)
    with open_store(loaded, recorded=recorded) as store:
        snapshot = Snapshot.load(store, known_asset(loaded, store, asset), settings=loaded.values.oracle)
    figures = [snapshot.price, snapshot.market_cap, snapshot.volume_24h, snapshot.change_24h]
    if output is Format.json:
        emit_json(
            {
                "asset": snapshot.asset,
                "now": snapshot.now,
                "recorded": snapshot.recorded,
                "state": snapshot.state,
                "figures": figures,
                "flags": snapshot.flags,
            }
        )
    else:
        _table(figures)
    for flag in snapshot.flags:
        say(f"warning: {flag.subject} {flag.state}: {flag.reason}")


def _table(figures: list[Figure]) -> None:
    from rich.table import Table

    table = Table("figure", "value", "interval", "unit", "age", "state", "sources", box=None)
    for figure in figures:
        if figure.value is None:
            table.add_row(figure.name, "-", "-", "-", "-", figure.state, "")
            continue
        interval = f"{figure.low:.8g} to {figure.high:.8g}"
        age = f"{figure.age:.0f} s"
        sources = ", ".join(figure.sources)
        table.add_row(figure.name, f"{figure.value:.8g}", interval, figure.unit, age, figure.state, sources)
    console().print(table)
