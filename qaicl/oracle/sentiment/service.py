"""The oracle's sentiment, with the model that the settings name."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from qaicl.models import ready
from qaicl.oracle.observations import Headline
from qaicl.oracle.sentiment.adapter import SHIPPED
from qaicl.oracle.sentiment.model import AdapterModel, HubModel, SentimentModel
from qaicl.oracle.sentiment.report import SentimentReport, summarise
from qaicl.settings import Settings, load

BASE = "all-minilm-l6-v2"


def model_of(settings: Settings) -> SentimentModel:
    """The model that the settings name; loaded once a process.

    Raises:
        UnknownModelError: there is no such model.
        ModelMissingError: it has to be pulled first.
        UnsupportedModelError: it is not a sentiment model, or the adapter does not fit.
        DamagedFileError: a file is broken.
    """
    chosen = settings.values.sentiment
    if chosen.model:
        return _hub(ready(settings, chosen.model))
    return _adapter(ready(settings, BASE), Path(chosen.adapter).expanduser() if chosen.adapter else SHIPPED)


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
