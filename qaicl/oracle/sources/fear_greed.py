"""The fear and greed index of alternative.me: one value a day, 0 extreme fear to 100 extreme greed.

``/fng/?limit=N`` answers newest first, every field a string.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import msgspec

from qaicl.oracle.observations import MARKET, Batch, Kind, Observation
from qaicl.oracle.sources.naming import plain
from qaicl.oracle.sources.protocol import Access, batch, moment, shaped

ROOT = "https://api.alternative.me"
CLASSIFICATION = 64
"""Characters of a day's word that are kept."""


class _Day(msgspec.Struct):
    value: float
    timestamp: int
    value_classification: str = ""


class _Days(msgspec.Struct):
    data: list[_Day]


class FearGreed:
    """Asks for the days that are not stored yet, and today's."""

    name = "fear_greed"

    def __init__(self, access: Access) -> None:
        self._access = access

    def skipped(self) -> str:
        return ""

    async def fetch(self, now: datetime) -> AsyncIterator[Batch]:
        today = now.replace(hour=0, minute=0, second=0, microsecond=0)
        wanted = [today - timedelta(days=back) for back in range(self._access.settings.history_days)]
        known = {o.observed_at for o in self._access.store.observations("fear_greed", wanted[-1], now, asset=MARKET)}
        lacking = [back for back, day in enumerate(wanted) if day not in known]
        limit = max(lacking, default=0) + 1
        url = self._access.root(self.name, ROOT) + "/fng/"
        reply = await self._access.client.get(self.name, url, params={"limit": str(limit)})
        yield batch(
            reply,
            observations=[
                Observation(
                    source=self.name,
                    kind=Kind.mood,
                    asset=MARKET,
                    metric="fear_greed",
                    observed_at=moment(reply, day.timestamp),
                    fetched_at=reply.fetched_at,
                    sha256=reply.sha256,
                    value=day.value,
                    text=plain(day.value_classification)[:CLASSIFICATION],
                )
                for day in shaped(reply, _Days).data
            ],
        )
