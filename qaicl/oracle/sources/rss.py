"""RSS and Atom feeds: free, at once, and the first source of headlines."""

from __future__ import annotations

import asyncio
from calendar import timegm
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import Any

from qaicl.oracle.http import Reply, bad_reply
from qaicl.oracle.observations import Batch, Headline, Rejected
from qaicl.oracle.sources.naming import OUTLET, SUMMARY, TITLE, assets_named, link, plain
from qaicl.oracle.sources.protocol import Access, batch

ENTRIES = 500
"""Of one feed at a time; the newest stand first. More would be a flood, and comparing all with all takes its time."""


class Feed:
    """One feed; an unchanged one costs a 304."""

    def __init__(self, access: Access, name: str, url: str) -> None:
        self.name = f"rss:{name}"
        self._outlet = name
        self._url = url
        self._access = access

    def skipped(self) -> str:
        return ""

    async def fetch(self, now: datetime) -> AsyncIterator[Batch]:
        url = self._access.settings.endpoints.get(self.name, self._url)
        reply = await self._access.client.get(self.name, url, conditional=True)
        if reply.unchanged:
            return
        # Seconds for a large feed, in which the other sources' requests would run into their time limits.
        feed = await asyncio.to_thread(_parsed, reply.body)
        if not feed.entries and (feed.bozo or not feed.version):
            raise bad_reply(reply, f"no feed: {feed.get('bozo_exception', 'unknown format')}")
        rejected: list[Rejected] = []
        headlines = list(self._headlines(reply, feed, rejected))
        yield batch(reply, headlines=headlines, rejected=rejected)

    def _headlines(self, reply: Reply, feed: Any, rejected: list[Rejected]) -> Iterable[Headline]:
        outlet = plain(feed.feed.get("title"))[:OUTLET] or self._outlet
        for entry in feed.entries[:ENTRIES]:
            # feedparser gives UTC; "updated" stands in where a feed dates nothing else.
            moment = _moment(entry.get("published_parsed") or entry.get("updated_parsed"))
            title, summary = plain(entry.get("title"))[:TITLE], plain(entry.get("summary"))[:SUMMARY]
            if moment is None:
                rejected.append(Rejected(reason="no date", body=title, sha256=reply.sha256))
                continue
            yield Headline(
                source=self.name,
                outlet=outlet,
                title=title,
                summary=summary,
                url=link(entry.get("link")),
                published_at=moment,
                fetched_at=reply.fetched_at,
                sha256=reply.sha256,
                assets=assets_named(f"{title} {summary}", self._access.settings.assets),
            )


def _parsed(body: bytes) -> Any:
    import feedparser

    return feedparser.parse(body)


def _moment(parsed: Any) -> datetime | None:
    """What feedparser made of a date; None where there is none, or where no calendar has it (the year 0)."""
    try:
        return None if parsed is None else datetime.fromtimestamp(timegm(parsed), UTC)
    except (OverflowError, ValueError, OSError):
        return None
