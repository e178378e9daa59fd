"""``qaicl up``."""

from __future__ import annotations

from typing import Annotated

import typer

from qaicl.cli.output import Format, Output, emit_json, say

app = typer.Typer()


@app.command(epilog='Example: qaicl up --nodes 3 --model smollm2-135m, then: qaicl ask "Why is the sky blue?"')
def up(
    ctx: typer.Context,
    nodes: Annotated[int | None, typer.Option("--nodes", min=1, help="Node daemons to run [3].")] = None,
    orchestrators: Annotated[
        int | None, typer.Option("--orchestrators", min=1, help="One leads, the others stand by [2].")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="A model of the catalogue [smollm2-135m].")] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="auto, float32, bfloat16, int8 or int4 [auto].")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=0, help="Compute threads a node [shared out].")
    ] = None,
    output: Output = Format.text,
) -> None:
    """Start a local cluster, or what is missing of it.

    Embedded Valkey, orchestrators and nodes are separate processes on the loopback interface, each with a CURVE key
    of its own. A cluster that runs already is left as it is.
    """
    from qaicl import settings
    from qaicl.cli.pulling import ensure_model
    from qaicl.daemon.supervisor import Supervisor

    flags = {
        "cluster.nodes": nodes,
        "cluster.orchestrators": orchestrators,
        "cluster.model": model,
        "cluster.precision": precision,
        "cluster.threads": threads,
    }
    loaded = settings.load(ctx.obj, flags)
    explicit = {key for key, value in flags.items() if value is not None}
    supervisor = Supervisor(loaded)
    # A running cluster's model counts, not the default: no download for what is refused or not needed.
    ensure_model(loaded, supervisor.specification(explicit).model)
    report = supervisor.up(explicit, say=say)
    if output is Format.json:
        emit_json(report)
        return
    typer.echo(
        f"{report['leader']} leads {len(report['nodes'])} nodes with {report['model']} "
        f"({report['precision']}), ready in {report['seconds']:.1f} s"
    )
    say('next: qaicl ask "Why is the sky blue?"')
