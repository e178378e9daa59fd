"""``qaicl oracle report``."""

from __future__ import annotations

import re
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qaicl.cli.output import Format, Output, console, emit_json, say

if TYPE_CHECKING:
    from qaicl.oracle.report.document import Report

app = typer.Typer()


class Rendering(StrEnum):
    """How a report is written."""

    terminal = "terminal"
    html = "html"
    markdown = "markdown"
    json = "json"


class Tongue(StrEnum):
    """A report's language."""

    english = "en"
    chinese = "zh-TW"


@app.command(epilog="Example: qaicl oracle report --recorded --format html --output report.html")
def report(
    ctx: typer.Context,
    asset: Annotated[
        str | None, typer.Option("--asset", help="An asset of the settings; the first by default.")
    ] = None,
    horizon: Annotated[str, typer.Option("--horizon", help="How far the forecast looks, such as 24h or 3d.")] = "24h",
    rendering: Annotated[Rendering, typer.Option("--format", help="How the report is written.")] = Rendering.terminal,
    file: Annotated[Path | None, typer.Option("--output", help="Write to this file.", metavar="FILE")] = None,
    language: Annotated[Tongue, typer.Option("--lang", help="The report's language.")] = Tongue.english,
    recorded: Annotated[
        bool, typer.Option("--recorded", help="Use the observations that ship with qaicl: needs no network or keys.")
    ] = False,
    narrated: Annotated[
        bool, typer.Option("--narrate", help="Have the cluster sum it up; dropped if a number is not in the report.")
    ] = False,
    timings: Annotated[bool, typer.Option("--timings", help="Say how long each part took.")] = False,
    output: Output = Format.text,
) -> None:
    """Write the market report on an asset: figures, risk, forecast with its record, sentiment, anomalies.

    It informs; it is not advice.
    """
    from qaicl import settings
    from qaicl.oracle.report.builder import Timings
    from qaicl.oracle.report.making import make_report

    if output is Format.json:
        rendering = Rendering.json
    measured = Timings()
    loaded = settings.load(ctx.obj)
    made = make_report(loaded, asset=asset, horizon=duration(horizon), recorded=recorded, timings=measured)
    if narrated:
        from qaicl.cli.asking import ask_text
        from qaicl.oracle.report.narrate import narrate

        with measured.part("narrative"):
            made = narrate(made, lambda prompt: ask_text(loaded, prompt), loaded.values.cluster.model, language.value)
    with measured.part("render"):
        _write(made, rendering, language, file)
    _warn(made, language)
    if timings:
        say(", ".join(f"{part} {seconds:.2f} s" for part, seconds in measured.seconds.items()))


def _warn(made: Report, language: Tongue) -> None:
    """What is wrong with the data, and why a narrative that was asked for is not there."""
    from qaicl.i18n import translator
    from qaicl.oracle.report import wording

    t = translator(language.value)
    warning = t("warning") + t(": ")
    if "narrative" in made.absent:
        say(warning + t.filled(made.absent["narrative"].why))
    for note in made.notes:
        say(f"{warning}{wording.subject(note.subject, t)} {t(note.state)}{t(': ')}{t.filled(note.reason)}")


def _write(made: Report, rendering: Rendering, language: Tongue, file: Path | None) -> None:
    if rendering is Rendering.terminal and file is None:
        from qaicl.oracle.report.terminal import render_terminal

        console().print(render_terminal(made, language.value))
        return
    if rendering is Rendering.json and file is None:
        emit_json(made)
        return
    text = _text(made, rendering, language)
    if file is None:
        typer.echo(text, nl=not text.endswith("\n"))
        return
    from qaicl.oracle.report.making import write_whole

    write_whole(file, text)
    say(f"written: {file}")


def _text(made: Report, rendering: Rendering, language: Tongue) -> str:
    if rendering is Rendering.html:
        from qaicl.oracle.report.html import render_html

        return render_html(made, language.value)
    if rendering is Rendering.json:
        import msgspec

        from qaicl.cli.output import JSON_VERSION
        from qaicl.oracle.report.document import as_dict

        document = msgspec.json.encode({"version": JSON_VERSION, **as_dict(made)})
        return msgspec.json.format(document, indent=2).decode() + "\n"
    if rendering is Rendering.markdown:
        from qaicl.oracle.report.markdown import render_markdown

        return render_markdown(made, language.value)
    import io

    from rich.console import Console

    from qaicl.oracle.report.terminal import render_terminal

    plain = Console(file=io.StringIO(), width=120, no_color=True, markup=False, emoji=False)
    plain.print(render_terminal(made, language.value))
    assert isinstance(plain.file, io.StringIO)
    return plain.file.getvalue()


def duration(text: str) -> timedelta:
    """``30m``, ``24h`` or ``3d`` as a time span.

    Raises:
        UsageError: it is none of them, or zero.
    """
    from qaicl.errors import UsageError

    found = re.fullmatch(r"(\d{1,4})([mhd])", text)
    if found is None or int(found[1]) == 0:
        raise UsageError(f"'{text}' is not a time span", why="it is a number and m, h or d", fix="write 24h or 3d")
    unit = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}[found[2]]
    return int(found[1]) * unit
