"""The oracle's sentiment, with the model that the settings name."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from qaicl.errors import UnknownModelError
from qaicl.oracle.observations import Headline
from qaicl.oracle.sentiment.adapter import SHIPPED
from qaicl.oracle.sentiment.model import AdapterModel, HubModel, SentimentModel
from qaicl.oracle.sentiment.report import SentimentReport, summarise
from qaicl.settings import Settings, load

BASE = "all-minilm-l6-v2"


def base_directory(settings: Settings) -> Path:
    """The base encoder's directory in the model store."""
    return settings.paths.models(settings.values.models) / BASE


def model_of(settings: Settings) -> SentimentModel:
    """The model that the settings name; loaded once a process.

    Raises:
        ModelMissingError: it is not in the model store.
        UnsupportedModelError: it is not a sentiment model, or the adapter does not fit.
        DamagedFileError: a file is broken.
    """
    chosen = settings.values.sentiment
    if not chosen.model:
        return _adapter(base_directory(settings), Path(chosen.adapter).expanduser() if chosen.adapter else SHIPPED)
    if "/" in chosen.model or chosen.model.startswith("."):
        raise UnknownModelError(
            f"'{chosen.model}' is not a model's name",
            why="it must be a directory of the model store",
            fix="run: qaicl model list",
        )
    return _hub(settings.paths.models(settings.values.models) / chosen.model)


@lru_cache(maxsize=2)
def _adapter(base: Path, adapter: Path) -> SentimentModel:
    return AdapterModel(base, adapter)


@lru_cache(maxsize=2)
def _hub(directory: Path) -> SentimentModel:
    return HubModel(directory)


def assess(headlines: Iterable[Headline], now: datetime, settings: Settings | None = None) -> SentimentReport:
    """The mood of these headlines at ``now``, see `summarise`; errors as in `model_of`."""
    settings = settings or load()
    return summarise(headlines, now, model_of(settings), settings.values.sentiment)
