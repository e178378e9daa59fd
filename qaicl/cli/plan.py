"""``qaicl plan``."""

from __future__ import annotations

from typing import Annotated

import typer

from qaicl.cli.output import Format, Output, emit_json

app = typer.Typer()


@app.command(epilog="Example: qaicl plan --mode split --stages 3 --explain")
def plan(
    ctx: typer.Context,
    mode: Annotated[str, typer.Option("--mode", help="auto, split or replica.")] = "auto",
    stages: Annotated[int, typer.Option("--stages", min=0, help="Nodes to split over; 0 chooses.")] = 0,
    explain: Annotated[bool, typer.Option("--explain", help="Say why.")] = False,
    output: Output = Format.text,
) -> None:
    """Show where a request would run now. Nothing is changed."""
    from qaicl import settings
    from qaicl.errors import ClusterError, UsageError
    from qaicl.wire.client import Client
    from qaicl.wire.messages import PlanQuery, PlanReply

    if mode not in ("auto", "split", "replica"):
        raise UsageError(f"'{mode}' is not a mode", why="known are auto, split and replica")
    loaded = settings.load(ctx.obj)
    with Client(loaded.paths.context(loaded.context)) as client:
        reply = client.call(PlanQuery(mode, stages), PlanReply)  # type: ignore[arg-type]
    if output is Format.json:
        pipeline = [{"node": stage.node, "layers": [stage.first, stage.last]} for stage in reply.pipeline]
        emit_json({"mode": reply.mode, "pipeline": pipeline, "reasons": list(reply.reasons)})
        return
    if not reply.pipeline:
        raise ClusterError("no node can serve now", why="; ".join(reply.reasons), fix="run: qaicl status")
    for stage in reply.pipeline:
        typer.echo(f"{stage.node}  layers {stage.first}-{stage.last}")
    if explain:
        for reason in reply.reasons:
            typer.echo(f"  {reason}")
