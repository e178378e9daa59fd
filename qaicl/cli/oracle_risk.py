"""``qaicl oracle risk``."""

from __future__ import annotations

from typing import Annotated

import typer

from qaicl.cli.output import Format, Output, console, emit_json, say

app = typer.Typer()


@app.command(epilog="Example: qaicl oracle risk --asset qubic -o json")
def risk(
    ctx: typer.Context,
    asset: Annotated[
        str | None, typer.Option("--asset", help="An asset of the settings; the first by default.")
    ] = None,
    recorded: Annotated[bool, typer.Option("--recorded", help="Use the observations that ship with qaicl.")] = False,
    output: Output = Format.text,
) -> None:
    """Assess an asset's risk: 0-100, LOW, MEDIUM or HIGH, the key risks and what to do about them."""
    from qaicl import settings
    from qaicl.oracle.risk.assessing import assess_asset

    snapshot, found = assess_asset(settings.load(ctx.obj), asset=asset, recorded=recorded)
    if output is Format.json:
        emit_json({"asset": snapshot.asset, "as_of": snapshot.now, "recorded": snapshot.recorded, "risk": found})
        return
    from rich.table import Table

    from qaicl.oracle.report.wording import with_unit

    if snapshot.recorded:
        say(f"RECORDED: data of {snapshot.now:%Y-%m-%d %H:%M} UTC, not the present market")
    table = Table("factor", "group", "value", "points", "level", box=None)
    for factor in found.factors:
        value = with_unit(factor.value, factor.unit, 3) if factor.measured else "not measured"
        table.add_row(factor.label, factor.group, value, f"{factor.points:.0f}", factor.level)
    over = f", over the alert threshold of {found.alert_from:.0f}" if found.alerting else ""
    console().print(f"{snapshot.asset}: risk {found.score:.0f} of 100, {found.level}{over}")
    console().print(table)
    for advice in found.recommendations:
        console().print(f"- {advice}")
