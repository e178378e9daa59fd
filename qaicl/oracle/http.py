"""The one way out to a source: quotas that outlive the process, limits on size and time, patience and its end."""

from __future__ import annotations

import asyncio
import email.utils
import random
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import httpx
import msgspec

from qaicl import __version__
from qaicl.errors import BadReplyError, KeyRefusedError, QuotaError, SourceError
from qaicl.oracle.observations import Validator, digest
from qaicl.oracle.store import Store
from qaicl.settings import OracleSettings

ATTEMPTS = 3
BACKOFF = 0.5
"""Seconds before the second attempt; doubled each time, with full jitter."""
PATIENCE = 5.0
"""A Retry-After up to this many seconds is waited for; a longer one ends this run's questions to the source."""
DEFAULT_WAIT = 60.0
"""Where a 429 does not say how long."""
LONGEST_WAIT = 86_400.0
"""However long a source asks to be left alone: a mistake in its header must not silence it for good."""
ENCODINGS = {"gzip": True, "deflate": True, "br": False, "zstd": False}
"""How a reply may be packed, and how not: the others unpack without a bound. What is none of them is never unpacked."""
LONGEST_REASON = 500
"""Characters of what went wrong that are kept: they go into the database, alerts and mails."""
CALLS_A_MINUTE: dict[str, int] = {"coingecko": 25, "gdelt": 10, "newsapi": 30, "fear_greed": 30, "qubic": 60}
"""Below each service's published limit; other sources have no built-in one."""
CALLS_A_DAY: dict[str, int] = {"newsapi": 95, "coingecko": 320}
"""NewsAPI's developer plan allows 100; CoinGecko's demo plan 10,000 a month."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A source's answer, whole."""

    source: str
    url: str
    body: bytes
    sha256: str
    fetched_at: datetime
    validator: Validator | None
    """To be stored in one transaction with what the body holds."""
    unchanged: bool = False
    """304: what is stored is still right."""

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            BadReplyError: it is none.
        """
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError as error:
            raise bad_reply(self, f"no JSON: {error}") from error


def bad_reply(reply: Reply, why: str) -> BadReplyError:
    """The error for a reply that is not what the source's documentation says."""
    return BadReplyError(
        f"{reply.source} sent something unusable",
        source=reply.source,
        why=f"{why}; it began {_snippet(reply.body)}",
        fix="nothing: it is asked again at the next refresh",
    )


class Client:
    """Asks sources, within their limits.

    Args:
        store: where quotas and validators are kept.
        clock: the present, UTC.
        sleep: waits so many seconds.
        jitter: seed of the back-off's jitter.
    """

    def __init__(
        self,
        store: Store,
        settings: OracleSettings,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: int | None = None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._sleep = sleep
        self._random = random.Random(jitter)
        self._turns: dict[str, asyncio.Lock] = {}
        self._last: dict[str, datetime] = {}
        self._http: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Client:
        self._http = httpx.AsyncClient(
            headers={"User-Agent": f"qaicl/{__version__}", "Accept-Encoding": "gzip, deflate"},
            timeout=self._settings.request_timeout,
            max_redirects=3,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._http is not None
        await self._http.aclose()

    async def get(
        self,
        source: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        conditional: bool = False,
    ) -> Reply:
        """One GET, tried again where trying again makes sense.

        Args:
            conditional: send the stored ETag and Last-Modified, so that the source may answer 304.

        Raises:
            QuotaError: the daily quota is used up, or the source said to wait longer than a few seconds.
            KeyRefusedError: 401 or 403.
            BadReplyError: another 4xx, a redirect of a request with a key, or a reply over the size limit.
            SourceError: no answer, or 5xx, after several attempts.
        """
        address = httpx.URL(url, params=dict(params)) if params else httpx.URL(url)
        asked = dict(headers or {})
        known = self._store.validator(str(address)) if conditional else None
        if known is not None:
            asked |= {"If-None-Match": known.etag} if known.etag else {}
            asked |= {"If-Modified-Since": known.last_modified} if known.last_modified else {}
        for attempt in range(1, ATTEMPTS + 1):
            await self._turn(source)
            try:
                async with asyncio.timeout(self._settings.request_timeout):
                    reply = await self._once(source, address, asked, follow=not headers)
                    # Of an address that is asked once, such as one with a time in it, there is nothing to remember.
                    return reply if conditional else msgspec.structs.replace(reply, validator=None)
            except QuotaError as error:
                wait = DEFAULT_WAIT if error.retry_after is None else max(error.retry_after, BACKOFF)
                if wait > PATIENCE or attempt == ATTEMPTS:
                    raise
            except _TransientError as error:
                if attempt == ATTEMPTS:
                    raise SourceError(
                        f"{source} does not answer",
                        source=source,
                        why=str(error),
                        fix="nothing: it is asked again at the next refresh",
                    ) from error
                wait = self._random.uniform(0, BACKOFF * 2 ** (attempt - 1))
            except TimeoutError as error:
                # A source this slow would hold up the others; it gets no second chance in this run.
                raise SourceError(
                    f"{source} does not answer",
                    source=source,
                    why=f"no whole reply within {self._settings.request_timeout:g} s",
                    fix="raise oracle.request_timeout if your line is slow",
                ) from error
            await self._sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    async def _turn(self, source: str) -> None:
        """Wait for this source's next slot, and count the call.

        Raises:
            QuotaError: today's calls are used up.
        """
        a_minute = self._settings.calls_a_minute.get(source, CALLS_A_MINUTE.get(source))
        a_day = self._settings.calls_a_day.get(source, CALLS_A_DAY.get(source))
        async with self._turns.setdefault(source, asyncio.Lock()):
            if a_minute is not None:
                if (last := self._last.get(source)) is not None:
                    due = last + timedelta(seconds=60 / a_minute)
                    # No longer than the distance itself: the clock may have been set back since.
                    await self._sleep(min(max(0.0, (due - self._clock()).total_seconds()), 60 / a_minute))
                while not self._store.take(source, f"{self._clock():%Y-%m-%dT%H:%M}", a_minute):
                    await self._sleep(60.0 - self._clock().second)
            now = self._clock()
            if not self._store.take(source, f"{now:%Y-%m-%d}", a_day):
                midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
                raise QuotaError(
                    f"today's {a_day} calls to {source} are used up",
                    source=source,
                    retry_after=(midnight - now).total_seconds(),
                    why="the quota counts from midnight UTC, across restarts",
                    fix="wait, or raise oracle.calls_a_day if your plan allows more",
                )
            self._last[source] = now

    async def _once(self, source: str, url: httpx.URL, headers: Mapping[str, str], *, follow: bool) -> Reply:
        assert self._http is not None, "use it as a context manager"
        try:
            async with self._http.stream("GET", url, headers=headers, follow_redirects=follow) as response:
                body = await self._read(source, response)
        except (httpx.TransportError, httpx.TooManyRedirects, httpx.DecodingError) as error:
            raise _TransientError(f"{type(error).__name__}: {error}".rstrip(": ")) from error
        now = self._clock()
        status = response.status_code
        validator = Validator(
            url=str(url),
            etag=response.headers.get("ETag", ""),
            last_modified=response.headers.get("Last-Modified", ""),
        )
        reply = Reply(
            source=source,
            url=str(url),
            body=body,
            sha256=digest(body),
            fetched_at=now,
            validator=validator if validator.etag or validator.last_modified else None,
            unchanged=status == HTTPStatus.NOT_MODIFIED,
        )
        if response.is_success or reply.unchanged:
            return reply
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            raise QuotaError(
                f"{source} says that we ask too often",
                source=source,
                retry_after=retry_after(response.headers.get("Retry-After"), now),
                why=_snippet(body),
                fix="nothing: it is asked again when it allows",
            )
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise KeyRefusedError(
                f"{source} refused us with {status}",
                source=source,
                why=_snippet(body),
                fix=f"check the API key: qaicl oracle sources --source {source}",
            )
        if response.is_server_error:
            raise _TransientError(f"HTTP {status}: {_snippet(body)}")
        raise bad_reply(reply, f"HTTP {status}")

    async def _read(self, source: str, response: httpx.Response) -> bytes:
        # Packed twice, or by another method, a few kilobytes unpack into gigabytes before they can be counted.
        encoding = response.headers.get("Content-Encoding", "").lower()
        packed = [name for part in encoding.split(",") if (name := part.strip()) in ENCODINGS]
        if not all(ENCODINGS[name] for name in packed) or len(packed) > 1:
            raise BadReplyError(
                f"{source} sent a reply that is packed strangely", source=source, why=f"Content-Encoding: {encoding}"
            )
        limit = self._settings.max_reply_bytes
        chunks: list[bytes] = []
        size = 0
        async for chunk in response.aiter_bytes():
            size += len(chunk)
            if size > limit:
                raise BadReplyError(
                    f"{source} sent too much",
                    source=source,
                    why=f"more than {limit} bytes",
                    fix="raise oracle.max_reply_bytes if that is right",
                )
            chunks.append(chunk)
        return b"".join(chunks)


class _TransientError(Exception):
    """Trying again may help."""


def retry_after(header: str | None, now: datetime) -> float:
    """Seconds that a Retry-After header asks to wait, :data:`LONGEST_WAIT` at most.

    It is a number, or an HTTP date; the default where it is neither.
    """
    if header is None:
        return DEFAULT_WAIT
    if header.isascii() and header.strip().isdigit():
        return min(float(header), LONGEST_WAIT)
    try:
        moment = email.utils.parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return DEFAULT_WAIT
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return min(max(0.0, (moment - now).total_seconds()), LONGEST_WAIT)


def _snippet(body: bytes) -> str:
    return printable(body[:200].decode("utf-8", "replace")) or "empty"


def printable(text: str) -> str:
    """Outside text on one line, without control characters, :data:`LONGEST_REASON` characters at most."""
    line = " ".join(text[: 4 * LONGEST_REASON].split())[:LONGEST_REASON]
    return "".join(character if character.isprintable() else "?" for character in line)
