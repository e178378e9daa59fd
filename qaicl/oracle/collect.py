"""One refresh: every source asked at once, each reply stored before the next is asked for.

Safe to run twice, at the same time, or to be killed: what is stored is whole batches, and each source asks for what
is missing from the store, not for what is new since the last run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from qaicl.errors import BadReplyError, KeyRefusedError, OracleStoreError, SettingsError, SourceError
from qaicl.oracle.http import LONGEST_WAIT, Client, printable
from qaicl.oracle.observations import Batch, Rejected, SourceHealth, Stored, digest
from qaicl.oracle.sources import registry
from qaicl.oracle.sources.protocol import Access, Source
from qaicl.oracle.store import Store
from qaicl.settings import OracleSettings

OPENS_AFTER = 3
"""Failures in a row after which a source is left alone for a while."""
FIRST_BREAK = 300.0
"""Seconds; doubled with each further failure."""
LONGEST_BREAK = 21_600.0
LEFT_ALONE = "left alone until"
"""How the reason begins of a source that is skipped because it failed."""

log = logging.getLogger(__name__)


class SourceResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one source."""

    source: str
    status: Literal["ok", "failed", "skipped"]
    stored: Stored
    """Kept even where the source failed later on."""
    reason: str = ""


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one refresh."""

    at: datetime
    sources: tuple[SourceResult, ...]
    pruned: int

    @property
    def stored(self) -> Stored:
        """All sources together."""
        return sum((result.stored for result in self.sources), Stored())

    @property
    def failed(self) -> tuple[SourceResult, ...]:
        """The sources that failed."""
        return tuple(result for result in self.sources if result.status == "failed")

    @property
    def silent(self) -> tuple[SourceResult, ...]:
        """The sources that failed, now or before, and are left alone for that."""
        return tuple(one for one in self.sources if one.status == "failed" or one.reason.startswith(LEFT_ALONE))


async def collect(
    store: Store,
    settings: OracleSettings,
    keys: dict[str, str],
    *,
    only: Iterable[str] = (),
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    on_batch: Callable[[Batch, Stored], None] = lambda batch, stored: None,
) -> Collected:
    """Ask every source once and store what is new. A source that fails stops no other.

    Args:
        only: names of sources to ask; empty: all.
        on_batch: called after each batch is stored.

    Raises:
        SettingsError: ``only`` or the settings name a source or exchange that does not exist.
        OracleStoreError: the database fails; nothing more can be kept.
    """
    async with Client(store, settings, clock=clock) as client:
        sources = _chosen(registry.build(Access(client, store, settings, keys)), set(only))
        health = store.health()
        asked = [
            asyncio.ensure_future(_ask(source, store, health.get(source.name), clock, on_batch)) for source in sources
        ]
        try:
            results = await asyncio.gather(*asked)
        except BaseException:
            # The others must end before their client does, or they would take its end for a failure of their source.
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            raise
    now = clock()
    # Not what is asked for again as soon as it lacks.
    pruned = store.prune(now - timedelta(days=max(settings.retention_days, settings.history_days)))
    return Collected(at=now, sources=tuple(results), pruned=pruned)


def _chosen(sources: list[Source], only: set[str]) -> list[Source]:
    if unknown := only - {source.name for source in sources}:
        raise SettingsError(
            f"there is no source '{sorted(unknown)[0]}'",
            why=f"the sources are {', '.join(sorted(source.name for source in sources))}",
            fix="run: qaicl oracle sources",
        )
    return [source for source in sources if not only or source.name in only]


async def _ask(
    source: Source,
    store: Store,
    health: SourceHealth | None,
    clock: Callable[[], datetime],
    on_batch: Callable[[Batch, Stored], None],
) -> SourceResult:
    health = health or SourceHealth(source=source.name)
    if reason := source.skipped() or _blocked(health, clock()):
        return SourceResult(source=source.name, status="skipped", stored=Stored(), reason=reason)
    stored = Stored()
    error: SourceError | None = None
    try:
        async for batch in _batches(source, clock()):
            added = store.add(batch, now=clock())
            stored += added
            on_batch(batch, added)
    except SourceError as caught:
        error = caught
    except (OracleStoreError, SettingsError):
        raise
    except Exception as caught:
        # A mistake in one source must not silence the others; it is recorded.
        log.exception("source %s failed in a way that nobody thought of", source.name)
        error = BadReplyError(
            f"{source.name} could not be read", source=source.name, why=f"{type(caught).__name__}: {caught}"
        )
    now = clock()
    if error is None:
        store.set_health(SourceHealth(source=source.name, last_success=now, last_failure=health.last_failure))
        return SourceResult(source=source.name, status="ok", stored=stored)
    if isinstance(error, BadReplyError):
        # Part of it may be the source's own words: they must not steer a terminal, or be more than the database takes.
        why = printable(error.why)
        rejected = Rejected(reason=error.what, body=why, sha256=digest(why.encode()))
        stored += store.add(Batch(source=source.name, rejected=(rejected,)), now=now)
    reason = printable(f"{error.what}: {error.why}" if error.why else error.what)
    store.set_health(after_failure(health, error, reason, now))
    return SourceResult(source=source.name, status="failed", stored=stored, reason=reason)


async def _batches(source: Source, now: datetime) -> AsyncIterator[Batch]:
    """The source's batches; its generator is closed even where storing one fails."""
    batches = source.fetch(now)
    try:
        async for batch in batches:
            yield batch
    finally:
        close = getattr(batches, "aclose", None)
        if close is not None:
            await close()


def _blocked(health: SourceHealth, now: datetime) -> str:
    if health.blocked_until is None or now >= health.blocked_until:
        return ""
    if health.blocked_until > now + timedelta(seconds=LONGEST_WAIT):
        # No source is left alone for so long: the clock was ahead when that was written.
        return ""
    return f"{LEFT_ALONE} {health.blocked_until:%Y-%m-%d %H:%M:%S} UTC: {health.reason}"


def after_failure(health: SourceHealth, error: SourceError, reason: str, now: datetime) -> SourceHealth:
    """A source's health after one more failure: the circuit opens after three, longer each time.

    A source that said when to come back is left alone until then; a refused key is asked again at each refresh, as
    the operator may have mended it.
    """
    failures = health.failures + 1
    wait = error.retry_after or None
    if wait is None and failures >= OPENS_AFTER and not isinstance(error, KeyRefusedError):
        wait = min(LONGEST_BREAK, FIRST_BREAK * 2 ** min(failures - OPENS_AFTER, 10))
    return SourceHealth(
        source=health.source,
        last_success=health.last_success,
        last_failure=now,
        reason=reason,
        failures=failures,
        blocked_until=None if wait is None else now + timedelta(seconds=wait),
    )
