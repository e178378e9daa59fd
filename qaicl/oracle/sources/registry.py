"""Which sources the settings ask for."""

from __future__ import annotations

from qaicl.errors import SettingsError
from qaicl.oracle.sources.coingecko import CoinGecko
from qaicl.oracle.sources.exchange import Exchange
from qaicl.oracle.sources.fear_greed import FearGreed
from qaicl.oracle.sources.gdelt import Gdelt
from qaicl.oracle.sources.newsapi import NewsApi
from qaicl.oracle.sources.protocol import Access, Source
from qaicl.oracle.sources.qubic import Qubic
from qaicl.oracle.sources.rss import Feed
from qaicl.settings import OracleSettings


def build(access: Access) -> list[Source]:
    """Every source that is not disabled.

    Raises:
        SettingsError: ``oracle.disabled_sources`` names one that does not exist.
    """
    settings = access.settings
    every: list[Source] = [
        CoinGecko(access),
        *(Exchange(access, name) for name in exchanges(settings)),
        Qubic(access),
        FearGreed(access),
        Gdelt(access),
        NewsApi(access),
        *(Feed(access, name, url) for name, url in settings.feeds.items()),
    ]
    names = {source.name for source in every}
    for name in settings.disabled_sources:
        if name not in names:
            raise SettingsError(
                f"oracle.disabled_sources names '{name}'", why=f"the sources are {', '.join(sorted(names))}"
            )
    return [source for source in every if source.name not in settings.disabled_sources]


def exchanges(settings: OracleSettings) -> list[str]:
    """Every exchange that an asset has a market on."""
    return sorted({exchange for asset in settings.assets.values() for exchange in asset.markets})
