"""GDELT's doc API: the average tone of the world's online coverage of an asset, hour by hour.

``mode=timelinetone``; GDELT answers a bad query with plain text and status 200, and wants 5 seconds between calls.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import msgspec

from qaicl.oracle.http import Reply, bad_reply
from qaicl.oracle.observations import Batch, Kind, Observation
from qaicl.oracle.sources.protocol import Access, batch, shaped

ROOT = "https://api.gdeltproject.org"
DAYS = 7
"""GDELT's timeline is hourly up to a week, daily beyond."""


class _Point(msgspec.Struct):
    date: str
    value: float | None = None


class _Series(msgspec.Struct):
    data: list[_Point] = []


class _Timeline(msgspec.Struct):
    timeline: list[_Series] = []


def _moment(reply: Reply, date: str) -> datetime:
    try:
        return datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise bad_reply(reply, str(error)) from error


class Gdelt:
    """Asks for one asset's last week a call."""

    name = "gdelt"

    def __init__(self, access: Access) -> None:
        self._access = access

    def skipped(self) -> str:
        return ""

    async def fetch(self, now: datetime) -> AsyncIterator[Batch]:
        url = self._access.root(self.name, ROOT) + "/api/v2/doc/doc"
        for asset, known in self._access.settings.assets.items():
            # GDELT refuses words of less than four letters, such as ticker symbols.
            names = [f'"{name}"' for name in dict.fromkeys((asset, *known.names)) if len(name) > 3]
            if not names:
                continue
            query = names[0] if len(names) == 1 else f"({' OR '.join(names)})"
            params = {"query": query, "mode": "timelinetone", "format": "json", "timespan": f"{DAYS}d"}
            reply = await self._access.client.get(self.name, url, params=params)
            timeline = shaped(reply, _Timeline).timeline
            yield batch(
                reply,
                observations=[
                    Observation(
                        source=self.name,
                        kind=Kind.tone,
                        asset=asset,
                        metric="news_tone",
                        observed_at=_moment(reply, point.date),
                        fetched_at=reply.fetched_at,
                        sha256=reply.sha256,
                        value=point.value,
                    )
                    for series in timeline[:1]
                    for point in series.data
                    if point.value is not None
                ],
            )
