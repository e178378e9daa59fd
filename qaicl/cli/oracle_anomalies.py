"""``qaicl oracle anomalies``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from qaicl.cli.output import Format, Output, console, emit_json, say

app = typer.Typer()


class Grade(StrEnum):
    """The lowest severity to show."""

    low = "low"
    medium = "medium"
    high = "high"
    critical = "critical"


@app.command(epilog="Example: qaicl oracle anomalies --recorded --from medium")
def anomalies(
    ctx: typer.Context,
    asset: Annotated[
        str | None, typer.Option("--asset", help="An asset of the settings; the first by default.")
    ] = None,
    lowest: Annotated[Grade, typer.Option("--from", help="The lowest severity to show.")] = Grade.low,
    recorded: Annotated[bool, typer.Option("--recorded", help="Use the observations that ship with qaicl.")] = False,
    output: Output = Format.text,
) -> None:
    """Find anomalies in an asset's prices, volumes and network figures, each graded and with its reasons."""
    from datetime import UTC, datetime

    from qaicl import settings
    from qaicl.oracle.anomalies.scan import METHOD, Severity, scan
    from qaicl.oracle.opening import known_asset, open_store
    from qaicl.oracle.snapshot import Snapshot

    loaded = settings.load(ctx.obj)
    with open_store(loaded, recorded=recorded) as store:
        name = known_asset(loaded, store, asset)
        now = None if recorded else datetime.now(UTC)
        snapshot = Snapshot.load(store, name, now=now, settings=loaded.values.oracle)
    order = list(Severity)
    found = [a for a in scan(snapshot) if order.index(a.severity) >= order.index(Severity[lowest.name])]
    if output is Format.json:
        emit_json(
            {
                "asset": name,
                "as_of": snapshot.now,
                "recorded": snapshot.recorded,
                "method": METHOD,
                "anomalies": found,
            }
        )
        return
    if snapshot.recorded:
        say(f"RECORDED: data of {snapshot.now:%Y-%m-%d %H:%M} UTC, not the present market")
    if not found:
        say(f"{name}: no anomaly of that severity in what is stored")
        return
    from rich.table import Table

    table = Table("began", "series", "value", "severity", "score", "why", box=None)
    for anomaly in found:
        began = f"{anomaly.at:%Y-%m-%d %H:%M} UTC"
        why = ", ".join(anomaly.reasons)
        table.add_row(began, anomaly.series, f"{anomaly.value:.6g}", anomaly.severity, f"{anomaly.score:.1f}", why)
    console().print(table)
