"""``qaicl status``."""

from __future__ import annotations

from typing import Any

import typer

from qaicl.cli.output import Format, Output, console, emit_json, say

app = typer.Typer()


@app.command(epilog="Example: qaicl status -o json")
def status(ctx: typer.Context, output: Output = Format.text) -> None:
    """Show the leader, the nodes, the queue and the store."""
    from qaicl import settings
    from qaicl.cli.asking import cluster_status

    found = cluster_status(settings.load(ctx.obj))
    if output is Format.json:
        emit_json(found)
        return
    typer.echo(f"leader {found['leader']}, epoch {found['epoch']}, store {found['store']}, policy {found['policy']}")
    console().print(node_table(found["nodes"]))
    queue = found["queue"]
    typer.echo(f"{queue['running']} running, {queue['waiting']} waiting (limit {queue['limit']})")
    if any(node["state"] == "dead" for node in found["nodes"]):
        say("next: qaicl up starts what is missing of a local cluster; qaicl doctor looks for the cause")


def node_table(nodes: list[dict[str, Any]]) -> Any:
    """The nodes as a rich table."""
    from rich.table import Table
    from rich.text import Text

    table = Table("node", "state", "pid", "running", "answered", "CPU %", "memory %", "steps/s", "address", box=None)
    colours = {"alive": "green", "dead": "red", "draining": "yellow", "joining": "cyan"}
    for node in nodes:
        state = node["state"]
        table.add_row(
            node["name"],
            Text(state, colours.get(state, "white")),
            str(node["pid"]),
            str(node["running"]),
            str(node["answered"]),
            f"{node['cpu_percent']:.0f}",
            f"{node['memory_percent']:.0f}",
            f"{node['steps_per_second']:.1f}",
            node["address"],
        )
    return table
