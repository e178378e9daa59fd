"""``qaicl oracle backtest``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qaicl.cli.output import Format, Output, console, emit_json, say

if TYPE_CHECKING:
    from qaicl.oracle.forecast.backtest import History
    from qaicl.oracle.forecast.records import BacktestRecord

app = typer.Typer(help="Walk forward through history and compare with the baselines.")


@app.command(
    epilog="Examples: qaicl oracle backtest --asset qubic --horizon 24; "
    "qaicl oracle backtest --candles ETH_BTC-1h.csv --horizon 6 -o json"
)
def backtest(
    ctx: typer.Context,
    asset: Annotated[
        str | None, typer.Option("--asset", help="Whose stored candles; the first of the settings by default.")
    ] = None,
    recorded: Annotated[bool, typer.Option("--recorded", help="Use the observations that ship with qaicl.")] = False,
    candles: Annotated[
        Path | None, typer.Option(help="A CSV with date, open, high, low, close, volume instead of the store.")
    ] = None,
    horizon: Annotated[int, typer.Option(min=1, max=500, help="How many bars ahead to forecast.")] = 24,
    seed: Annotated[int, typer.Option(help="Same seed, data and machine: same record.")] = 7,
    checkpoint: Annotated[Path | None, typer.Option(help="Keep finished folds here, and go on from it.")] = None,
    output: Output = Format.text,
) -> None:
    """Test the forecast on the past, without looking ahead, against persistence, majority and drift."""
    from qaicl.oracle.forecast import backtest as method

    past = _from_file(candles, horizon) if candles is not None else _from_store(ctx.obj, asset, recorded, horizon)
    record = method.backtest(
        past, seed, checkpoint=checkpoint, report=lambda done, total: say(f"fold {done} of {total} done")
    )
    if output is Format.json:
        emit_json(record)
    else:
        _print(record)


def _from_file(path: Path, horizon: int) -> History:
    from qaicl.oracle.forecast import candles
    from qaicl.oracle.forecast.backtest import history

    table, interval = candles.read(path)
    return history(table, interval, horizon)


def _from_store(context: str | None, asset: str | None, recorded: bool, horizon: int) -> History:
    from qaicl import settings
    from qaicl.oracle.forecast.backtest import history
    from qaicl.oracle.opening import known_asset, open_store
    from qaicl.oracle.snapshot import Snapshot

    loaded = settings.load(context)
    with open_store(loaded, recorded=recorded) as store:
        snapshot = Snapshot.load(store, known_asset(loaded, store, asset), settings=loaded.values.oracle)
    return history(snapshot.candles, snapshot.interval, horizon, snapshot.fear_greed_history, snapshot.network)


def _print(record: BacktestRecord) -> None:
    from rich.table import Table

    out = console()
    out.print(f"{record.verdict}: {record.reason}")
    out.print(
        f"{record.tested} bars tested in {record.folds} folds, {record.start:%F} to {record.end:%F}; "
        f"{record.effective:.0f} of them do not overlap; {record.purge_bars} bars purged before each fold"
    )
    table = Table("", "accuracy", "95 % interval", "ensemble's advantage", box=None)
    accuracy = record.accuracy
    table.add_row("ensemble", f"{accuracy.value:.3f}", f"{accuracy.low:.3f} to {accuracy.high:.3f}", "")
    for name, value in record.parts.items():
        table.add_row(f"  {name}", f"{value:.3f}", "", "")
    for one in record.baselines:
        ahead = one.advantage
        table.add_row(
            one.name, f"{one.accuracy:.3f}", "", f"{ahead.value:+.3f} ({ahead.low:+.3f} to {ahead.high:+.3f})"
        )
    out.print(table)
    skill = record.brier_skill
    out.print(
        f"Brier {record.brier:.4f}, base rate {record.brier_base:.4f}, "
        f"skill {skill.value:+.3f} ({skill.low:+.3f} to {skill.high:+.3f}); "
        f"log loss {record.log_loss:.4f}, base rate {record.log_loss_base:.4f}; "
        f"80 % interval held {record.coverage:.0%}"
    )
    bins = Table("forecast", "bars", "mean forecast", "price rose", box=None)
    for part in record.reliability:
        bins.add_row(
            f"{part.low:.1f} to {part.high:.1f}", str(part.count), f"{part.predicted:.2f}", f"{part.happened:.2f}"
        )
    out.print(bins)
