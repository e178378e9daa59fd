"""``qaicl oracle sentiment``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from qaicl.cli.output import Format, Output, console, emit_json

if TYPE_CHECKING:
    from qaicl.oracle.sentiment.report import SentimentReport
    from qaicl.settings import Settings

app = typer.Typer(help="Score headlines or a text: sentiment, confidence, key factors.")


@app.command(
    epilog='Examples: qaicl oracle sentiment "Exchange halts withdrawals"; '
    "qaicl oracle sentiment --input headlines.jsonl -o json; qaicl oracle sentiment --asset qubic"
)
def sentiment(
    ctx: typer.Context,
    text: Annotated[list[str] | None, typer.Argument(help="Texts to score.")] = None,
    source: Annotated[
        Path | None, typer.Option("--input", help='JSON Lines, {"text": "…"} a line; - reads standard input.')
    ] = None,
    asset: Annotated[
        str | None, typer.Option("--asset", help="Whose stored headlines; the first of the settings by default.")
    ] = None,
    recorded: Annotated[bool, typer.Option("--recorded", help="Use the observations that ship with qaicl.")] = False,
    output: Output = Format.text,
) -> None:
    """Score texts one by one, or without any report the mood of an asset's stored headlines."""
    from qaicl import settings
    from qaicl.errors import UsageError

    loaded = settings.load(ctx.obj)
    if text and source is not None:
        raise UsageError("texts and --input were both given", why="one of them is scored", fix="leave one out")
    if text or source is not None:
        _texts(loaded, text, source, output)
        return
    asset, report = _report(loaded, asset, recorded)
    if output is Format.json:
        emit_json({"asset": asset, **msgspec.to_builtins(report)})
    else:
        _print(asset, report)


def _texts(loaded: Settings, text: list[str] | None, source: Path | None, output: Format) -> None:
    from qaicl.oracle.sentiment.dataset import read_texts
    from qaicl.oracle.sentiment.scoring import score
    from qaicl.oracle.sentiment.service import model_of

    texts = text or read_texts(source or Path("-"))
    model = model_of(loaded)
    scored = score(model, texts)
    if output is Format.json:
        items = [
            {"text": one, "label": said.label, "score": said.score, "confidence": said.confidence}
            for one, said in zip(texts, scored, strict=True)
        ]
        emit_json({"model": model.name, "model_version": model.version, "items": items})
        return
    from rich.table import Table

    from qaicl.oracle.sentiment.text import clean

    table = Table("label", "score", "confidence", "text", box=None)
    for one, said in zip(texts, scored, strict=True):
        table.add_row(said.label, f"{said.score:+.2f}", f"{said.confidence:.0%}", clean(one))
    console().print(table)


def _report(loaded: Settings, asset: str | None, recorded: bool) -> tuple[str, SentimentReport]:
    from qaicl.oracle.opening import known_asset, open_store
    from qaicl.oracle.sentiment.service import assess
    from qaicl.oracle.snapshot import Snapshot

    with open_store(loaded, recorded=recorded) as store:
        snapshot = Snapshot.load(store, known_asset(loaded, store, asset), settings=loaded.values.oracle)
    return snapshot.asset, assess(snapshot.headlines, snapshot.now, loaded)


def _print(asset: str, report: SentimentReport) -> None:
    from rich.table import Table

    from qaicl.oracle.sentiment.text import clean

    out, counts = console(), report.counts
    value = "no story" if report.score is None else f"{report.score:+.2f}"
    out.print(f"{asset}: {report.label} ({value}), confidence {report.confidence:.0%}, as of {report.as_of:%F %R} UTC")
    out.print(
        f"{counts.stories} stories: {counts.positive} positive, {counts.negative} negative, {counts.neutral} neutral; "
        f"left out: {counts.duplicates} copies, {counts.too_old} too old, {counts.in_future} dated in the future"
    )
    table = Table("adds", "age h", "outlet", "story", "words", box=None)
    for factor in report.factors:
        age = (report.as_of - factor.published_at).total_seconds() / 3600
        words = ", ".join(one.word for one in factor.words)
        table.add_row(
            f"{factor.contribution:+.2f}",
            f"{age:.0f}",
            clean(factor.outlet),
            factor.title,
            words,
        )
    if report.factors:
        out.print(table)
    out.print(f"{report.model}, version {report.model_version}")
