"""``qaicl doctor``."""

from __future__ import annotations

import typer

from qaicl.cli.output import Format, Output, console, emit_json

app = typer.Typer()


@app.command(epilog="Example: qaicl doctor -o json")
def doctor(ctx: typer.Context, output: Output = Format.text) -> None:
    """Check this machine and the cluster; every finding says what to do. Exit code 1 if something is wrong."""
    from qaicl import settings
    from qaicl.daemon.diagnosis import diagnose

    findings = diagnose(settings.load(ctx.obj))
    wrong = [finding for finding in findings if not finding.ok]
    if output is Format.json:
        emit_json({"ok": not wrong, "checks": findings})
    else:
        from rich.table import Table
        from rich.text import Text

        table = Table("", "check", "found", "do", box=None)
        for finding in findings:
            mark = Text("ok", "green") if finding.ok else Text("wrong", "red")
            table.add_row(mark, finding.check, finding.found, finding.fix)
        console().print(table)
    if wrong:
        raise typer.Exit(1)
