"""``qaicl config``."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from qaicl import settings
from qaicl.cli.output import Format, Output, console, emit_json

app = typer.Typer(help="Show the settings and where each comes from.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Show the settings and where each comes from."""


@app.command(epilog="Example: qaicl config show --origin")
def show(
    ctx: typer.Context,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value comes from.")] = False,
    output: Output = Format.text,
) -> None:
    """Print every setting of this context."""
    loaded = settings.load(ctx.obj)
    rows = [
        {"name": f"{section}.{key}", "value": value}
        | ({"origin": loaded.origin.get(f"{section}.{key}", "default")} if origin else {})
        for section, table in msgspec.to_builtins(loaded.values).items()
        for key, value in table.items()
    ]
    if output is Format.json:
        emit_json({"context": loaded.context, "settings": rows})
        return
    from rich.table import Table

    table = Table("setting", "value", *(["origin"] if origin else []), box=None)
    for row in rows:
        table.add_row(*(str(cell) for cell in row.values()))
    console().print(table)
