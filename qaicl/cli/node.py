"""``qaicl node``."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from qaicl.cli.output import Format, Output, confirm, console, emit_json, say

app = typer.Typer(help="Look at nodes, add, drain and remove them.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The node's name, as `qaicl node list` shows it.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.command("list", epilog="Example: qaicl node list")
def list_nodes(ctx: typer.Context, output: Output = Format.text) -> None:
    """List the nodes."""
    from qaicl import settings
    from qaicl.cli.asking import cluster_status
    from qaicl.cli.status import node_table

    nodes = cluster_status(settings.load(ctx.obj))["nodes"]
    if output is Format.json:
        emit_json(nodes)
    else:
        console().print(node_table(nodes))


@app.command(epilog="Example: qaicl node show node-1")
def show(ctx: typer.Context, name: Name, output: Output = Format.text) -> None:
    """Show all that is known of one node."""
    from qaicl import settings
    from qaicl.cli.asking import cluster_status
    from qaicl.errors import UsageError

    nodes = {node["name"]: node for node in cluster_status(settings.load(ctx.obj))["nodes"]}
    if name not in nodes:
        raise UsageError(f"no node '{name}'", why=f"known are {', '.join(nodes)}", fix="run: qaicl node list")
    if output is Format.json:
        emit_json(nodes[name])
        return
    for key, value in nodes[name].items():
        typer.echo(f"{key:18} {value}")


@app.command(epilog="Example: qaicl node add")
def add(ctx: typer.Context, output: Output = Format.text) -> None:
    """Start one more node of the local cluster."""
    from qaicl import settings
    from qaicl.daemon.supervisor import Supervisor

    name = Supervisor(settings.load(ctx.obj)).add_node()
    if output is Format.json:
        emit_json({"node": name})
    else:
        typer.echo(f"{name} is up")


@app.command(epilog="Example: qaicl node drain node-1 --wait 60")
def drain(
    ctx: typer.Context,
    name: Name,
    wait: Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait until nothing runs there.")] = 0.0,
    undo: Annotated[bool, typer.Option("--undo", help="Take work again.")] = False,
    output: Output = Format.text,
) -> None:
    """Give a node no new work; what runs there ends there."""
    from qaicl import settings
    from qaicl.cli.asking import cluster_status, node_command
    from qaicl.errors import ClusterError

    loaded = settings.load(ctx.obj)
    done = node_command(loaded, name, "resume" if undo else "drain")
    deadline = time.monotonic() + wait
    running = 0
    while wait and not undo:
        node = next(node for node in cluster_status(loaded)["nodes"] if node["name"] == name)
        running = node["running"]
        if not running:
            done = f"{name} is drained"
            break
        if time.monotonic() > deadline:
            raise ClusterError(f"{running} requests still run on {name}", why=f"they took longer than {wait:g} s")
        time.sleep(0.1)
    if output is Format.json:
        emit_json({"node": name, "done": done, "running": running})
    else:
        typer.echo(done)


@app.command(epilog="Example: qaicl node remove node-3 --yes")
def remove(ctx: typer.Context, name: Name, yes: Yes = False, output: Output = Format.text) -> None:
    """End a node; what runs there moves to others."""
    from qaicl import settings
    from qaicl.cli.asking import node_command
    from qaicl.daemon.supervisor import Supervisor

    confirm(f"End {name}?", yes)
    loaded = settings.load(ctx.obj)
    done = node_command(loaded, name, "remove")
    if Supervisor(loaded).ended_node(name):
        say("next: qaicl node add starts another")
    if output is Format.json:
        emit_json({"node": name, "done": done})
    else:
        typer.echo(done)
