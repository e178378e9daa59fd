"""``qaicl down``."""

from __future__ import annotations

import typer

from qaicl.cli.output import Format, Output, emit_json

app = typer.Typer()


@app.command(epilog="Example: qaicl down")
def down(ctx: typer.Context, output: Output = Format.text) -> None:
    """Stop the local cluster; no process, socket or temporary file is left.

    Results of the last day stay on disk and are there again after the next `qaicl up`.
    """
    from qaicl import settings
    from qaicl.daemon.supervisor import Supervisor

    report = Supervisor(settings.load(ctx.obj)).down()
    if output is Format.json:
        emit_json(report)
    elif report["stopped"]:
        typer.echo(f"stopped {', '.join(report['stopped'])}")
    else:
        typer.echo("nothing was running")
