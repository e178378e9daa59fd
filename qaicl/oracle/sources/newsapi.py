"""NewsAPI ``/v2/everything``: articles that name an asset.

The developer plan delays articles by a day, allows 100 requests a day and the first 100 results of a query; any field
of an article may be null. Errors come as ``{"status":"error","code","message"}``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from datetime import datetime, timedelta

import msgspec

from qaicl.oracle.http import Reply, bad_reply
from qaicl.oracle.observations import Batch, Headline, Rejected, utc
from qaicl.oracle.sources.naming import OUTLET, SUMMARY, TITLE, assets_named, link, plain
from qaicl.oracle.sources.protocol import Access, batch, shaped

ROOT = "https://newsapi.org"
PAGE = 100
OVERLAP = timedelta(days=2)
"""Asked for again before the newest known article: articles appear late and out of order."""
REACH = timedelta(days=29)
"""The developer plan searches a month back."""


class _Outlet(msgspec.Struct):
    name: str | None = None


class _Article(msgspec.Struct, rename="camel"):
    source: _Outlet | None = None
    title: str | None = None
    description: str | None = None
    url: str | None = None
    published_at: datetime | None = None


class _Answer(msgspec.Struct):
    status: str
    articles: list[_Article] = []
    code: str = ""
    message: str = ""


class NewsApi:
    """Asks for the newest articles on all assets in one call."""

    name = "newsapi"

    def __init__(self, access: Access) -> None:
        self._access = access
        self._key = access.keys.get(self.name, "")

    def skipped(self) -> str:
        return "" if self._key else "no key: set NEWSAPI_KEY"

    async def fetch(self, now: datetime) -> AsyncIterator[Batch]:
        reach = now - min(REACH, timedelta(days=self._access.settings.history_days))
        known = [h.published_at for h in self._access.store.headlines(reach, now) if h.source == self.name]
        start = max(reach, max(known) - OVERLAP) if known else reach
        assets = self._access.settings.assets
        names = dict.fromkeys(name for asset, one in assets.items() for name in (asset, *one.names))
        params = {
            "q": " OR ".join(f'"{name}"' for name in names),
            "from": f"{start:%Y-%m-%dT%H:%M:%S}",
            "language": "en",
            "sortBy": "publishedAt",
            "pageSize": str(PAGE),
        }
        url = self._access.root(self.name, ROOT) + "/v2/everything"
        reply = await self._access.client.get(self.name, url, params=params, headers={"X-Api-Key": self._key})
        answer = shaped(reply, _Answer)
        if answer.status != "ok":
            raise bad_reply(reply, f"{answer.code}: {answer.message}")
        rejected: list[Rejected] = []
        headlines = list(self._headlines(reply, answer.articles, rejected))
        yield batch(reply, headlines=headlines, rejected=rejected)

    def _headlines(self, reply: Reply, articles: list[_Article], rejected: list[Rejected]) -> Iterable[Headline]:
        for article in articles:
            if article.published_at is None or article.title is None:
                body = msgspec.json.encode(article).decode()
                rejected.append(Rejected(reason="no title or date", body=body, sha256=reply.sha256))
                continue
            title, summary = plain(article.title)[:TITLE], plain(article.description)[:SUMMARY]
            yield Headline(
                source=self.name,
                outlet=plain(article.source.name if article.source else None)[:OUTLET] or "unknown",
                title=title,
                summary=summary,
                url=link(article.url),
                published_at=utc(article.published_at),
                fetched_at=reply.fetched_at,
                sha256=reply.sha256,
                assets=assets_named(f"{title} {summary}", self._access.settings.assets),
            )
