"""``qaicl oracle``: a table of commands, each in its own file."""

from __future__ import annotations

from typing import ClassVar

import typer

from qaicl.cli.lazy import LazyGroup


class Oracle(LazyGroup):
    """Every oracle command; importing a command's module happens when it is run."""

    table: ClassVar[dict[str, tuple[str, str]]] = {
        "collect": ("qaicl.cli.oracle_collect", "Fetch from every source once and store what is new"),
        "sources": ("qaicl.cli.oracle_sources", "Show each source: enabled, key, last success, quota, circuit"),
        "price": ("qaicl.cli.oracle_price", "Show an asset's aggregated price, with sources, interval and age"),
        "watch": ("qaicl.cli.oracle_watch", "Print new figures as they are collected"),
        "report": ("qaicl.cli.oracle_report", "Write the market report on an asset"),
        "sentiment": ("qaicl.cli.oracle_sentiment", "Score headlines or a text: sentiment, confidence, key factors"),
        "backtest": ("qaicl.cli.oracle_backtest", "Walk forward through history and compare with the baselines"),
        "train": ("qaicl.cli.oracle_train", "Train the sentiment model"),
        "anomalies": ("qaicl.cli.oracle_anomalies", "Find anomalies in an asset's series, graded by severity"),
        "risk": ("qaicl.cli.oracle_risk", "Assess risk: 0-100, level, key risks, recommendations"),
        "alerts": ("qaicl.cli.oracle_alerts", "Show, silence and test alerts"),
    }


app = typer.Typer(cls=Oracle, no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Collect market data and report on it. A report informs; it is not advice."""
