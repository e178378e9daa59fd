"""The oracle's sentiment, with the model that the settings name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from qaicl.models import ready
from qaicl.oracle.observations import Headline
from qaicl.oracle.sentiment.adapter import NAME, SHIPPED, base_digest, read_card
from qaicl.oracle.sentiment.remembered import Remembered
from qaicl.oracle.sentiment.report import SentimentReport, summarise
from qaicl.settings import Settings, load

if TYPE_CHECKING:
    from qaicl.oracle.sentiment.model import AdapterModel, HubModel

BASE = "all-minilm-l6-v2"


def model_of(settings: Settings) -> Remembered:
    """The model that the settings name; its weights are loaded at the first question not answered before.

    Raises:
        UnknownModelError: there is no such model.
        ModelMissingError: it has to be pulled first.
        UnsupportedModelError: the adapter does not fit the model.
        DamagedFileError: a file is broken.
    """
    chosen = settings.values.sentiment
    answers = settings.paths.data / "oracle" / "scores"
    if chosen.model:
        return _hub(ready(settings, chosen.model), answers)
    return _adapter(ready(settings, BASE), Path(chosen.adapter).expanduser() if chosen.adapter else SHIPPED, answers)


@lru_cache(maxsize=2)
def _adapter(base: Path, adapter: Path, answers: Path) -> Remembered:
    def load() -> AdapterModel:
        from qaicl.oracle.sentiment.model import AdapterModel

        return AdapterModel(base, adapter)

    card = read_card(adapter, base)
    return Remembered(NAME, card.run, _digest(adapter) + card.base, answers, load)


@lru_cache(maxsize=2)
def _hub(directory: Path, answers: Path) -> Remembered:
    def load() -> HubModel:
        from qaicl.oracle.sentiment.model import HubModel

        return HubModel(directory)

    weights = base_digest(directory)
    files = (directory / name for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"))
    return Remembered(directory.name, weights, weights + "".join(map(_digest, files)), answers, load)


def _digest(file: Path) -> str:
    """SHA-256 of a file's content; empty where it is not there."""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def assess(headlines: Iterable[Headline], now: datetime, settings: Settings | None = None) -> SentimentReport:
    """The mood of these headlines at ``now``, see `summarise`.

    Raises:
        UnsupportedModelError: the settings' model is not a sentiment model.
        QaiclError: as in `model_of`.
    """
    settings = settings or load()
    return summarise(headlines, now, model_of(settings), settings.values.sentiment)
