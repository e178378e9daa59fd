"""``qaicl daemon``: the processes that ``up`` and systemd start."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Run one daemon in the foreground.", no_args_is_help=True)

Name = Annotated[str, typer.Option("--name", help="Its name in the cluster; its key is keys/NAME.key_secret.")]
Bind = Annotated[str, typer.Option("--bind", help="Where to listen, as tcp://ADDRESS:PORT.")]


@app.command(epilog="Example: qaicl daemon orchestrator --name orch-1 --bind tcp://10.0.0.10:5000")
def orchestrator(ctx: typer.Context, name: Name, bind: Bind) -> None:
    """Accept requests and plan, or stand by."""
    from qaicl import settings
    from qaicl.daemon.orchestrator import OrchestratorDaemon

    OrchestratorDaemon(settings.load(ctx.obj), name, bind).run()


@app.command(epilog="Example: qaicl daemon node --name vm2 --bind tcp://10.0.0.20:5000")
def node(
    ctx: typer.Context,
    name: Name,
    bind: Bind,
    advertise: Annotated[
        str, typer.Option("--advertise", help="The address that others use, where it is not the bound one.")
    ] = "",
) -> None:
    """Host stages of the model."""
    from qaicl import settings
    from qaicl.daemon.node import NodeDaemon

    NodeDaemon(settings.load(ctx.obj), name, bind, advertise or bind).run()


@app.command(epilog="Example: qaicl daemon oracle")
def oracle(ctx: typer.Context) -> None:
    """Refresh the market data every hour, assess risk, send alerts."""
    from qaicl import settings
    from qaicl.daemon.oracle import OracleDaemon, standard_jobs

    loaded = settings.load(ctx.obj)
    OracleDaemon(loaded, standard_jobs(loaded)).run()
