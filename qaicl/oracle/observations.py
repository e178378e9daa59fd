"""The oracle's shared data types: what a source said, when it was true, when it was fetched, and from which bytes.

All times are timezone-aware UTC. ``observed_at`` is when a figure was true according to its source,
``fetched_at`` when the reply arrived here. ``sha256`` is the digest of the raw reply a record was read from, so
that a report can name the bytes behind a figure. ``recorded`` marks what ships with the project instead of being
fetched live; nothing recorded may ever be presented as current.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Literal

import msgspec

HeadlineKind = Literal["news", "social"]
Interval = Literal["5m", "15m", "1h", "4h", "1d"]

INTERVALS: dict[Interval, timedelta] = {
    "5m": timedelta(minutes=5),
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "4h": timedelta(hours=4),
    "1d": timedelta(days=1),
}

MARKET = "market"
"""The asset of an observation that concerns the whole market, such as fear and greed."""


class Kind(StrEnum):
    """What an observation is about."""

    price = "price"
    """Price, market capitalisation, volume, change: metrics ``price market_cap volume_24h change_24h``."""
    supply = "supply"
    """Fundamentals: metrics ``circulating_supply total_supply max_supply``."""
    mood = "mood"
    """Market mood: metric ``fear_greed`` (0 extreme fear .. 100 extreme greed)."""
    tone = "tone"
    """Average tone of coverage: metric ``news_tone`` (GDELT scale, about -10 .. +10)."""


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """One collected datum. (source, asset, metric, observed_at) is its identity: storing it twice changes nothing."""

    source: str
    kind: Kind
    asset: str
    metric: str
    observed_at: datetime
    fetched_at: datetime
    sha256: str
    value: float | None = None
    text: str | None = None
    """What the source said where a figure is not enough, such as a classification."""
    unit: str = ""
    """``USD``, ``USDT``, ``BTC``, ``percent``, ``ticks`` …; empty for a bare number."""
    recorded: bool = False


class Candle(msgspec.Struct, frozen=True, kw_only=True):
    """One finished bar. ``closed_at`` is the end of the bar, exclusive: the 1 h bar of 04:00-05:00 has 05:00."""

    source: str
    asset: str
    interval: Interval
    closed_at: datetime
    open: float
    high: float
    low: float
    close: float
    volume: float
    """Traded amount in the asset itself, of this bar alone (never a rolling sum)."""
    quote: str
    """The currency that the prices are in: ``USD``, ``USDT``, ``BTC``."""
    fetched_at: datetime
    sha256: str
    recorded: bool = False


class Headline(msgspec.Struct, frozen=True, kw_only=True):
    """One news item or post. ``key`` is its identity across sources."""

    source: str
    """Who carried it to us: ``newsapi``, ``rss:<feed host>``, ``recorded``."""
    outlet: str
    """Who published it."""
    title: str
    published_at: datetime
    fetched_at: datetime
    sha256: str
    summary: str = ""
    url: str = ""
    kind: HeadlineKind = "news"
    assets: tuple[str, ...] = ()
    """Assets that the text names; empty means the market as a whole."""
    recorded: bool = False

    @property
    def key(self) -> str:
        """A digest of the title's words: the same story from two feeds, or fetched twice, has the same key a day."""
        words = " ".join("".join(c if c.isalnum() else " " for c in self.title.casefold()).split())
        day = self.published_at.astimezone(UTC).date().isoformat()
        return hashlib.sha256(f"{day}\n{words}".encode()).hexdigest()


class NetworkStats(msgspec.Struct, frozen=True, kw_only=True):
    """A network's figures at one moment; a field that the source did not give is None.

    Field meanings follow Qubic's RPC replies ``tick-info`` and ``latest-stats``.
    """

    source: str
    asset: str
    observed_at: datetime
    fetched_at: datetime
    sha256: str
    epoch: int | None = None
    tick: int | None = None
    tick_duration: float | None = None
    """Seconds a tick."""
    ticks_in_epoch: int | None = None
    empty_ticks: int | None = None
    tick_quality: float | None = None
    """Percent of this epoch's ticks that were not empty."""
    active_addresses: int | None = None
    circulating_supply: int | None = None
    burned: int | None = None
    price: float | None = None
    market_cap: float | None = None
    recorded: bool = False


class State(StrEnum):
    """How far a figure may be trusted."""

    fresh = "FRESH"
    """Within its staleness limit and backed by enough agreeing sources."""
    stale = "STALE"
    """Older than its limit: the last known value, not the present one."""
    degraded = "DEGRADED"
    """In time, but from fewer sources than wanted, or the sources disagree."""
    missing = "MISSING"
    """Nothing is stored."""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One aggregated number with everything a reader needs to judge it."""

    name: str
    value: float | None
    low: float | None
    """Lower end of the sources' interval, outliers excluded; equals ``value`` with one source."""
    high: float | None
    unit: str
    sources: tuple[str, ...]
    """The sources that made the value; an excluded one is named in ``reasons``."""
    observed_at: datetime | None
    """The oldest observation that went into the value."""
    age: float | None
    """Seconds between ``observed_at`` and the moment of aggregation."""
    state: State
    reasons: tuple[str, ...] = ()
    """Why the state is not FRESH, and which sources were left out."""
    hashes: tuple[str, ...] = ()
    recorded: bool = False


def utc(moment: datetime) -> datetime:
    """The same moment in UTC; a naive time counts as UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def digest(body: bytes) -> str:
    """SHA-256 of a raw reply, in hex."""
    return hashlib.sha256(body).hexdigest()


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """A bar that the exchange itself does not have: nobody traded, or it was down."""

    source: str
    asset: str
    interval: Interval
    closed_at: datetime


class Validator(msgspec.Struct, frozen=True, kw_only=True):
    """What to send so that an unchanged reply is answered with 304."""

    url: str
    etag: str = ""
    last_modified: str = ""


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """A reply, or a record of it, that could not be believed."""

    reason: str
    body: str
    sha256: str


class Quarantined(msgspec.Struct, frozen=True, kw_only=True):
    """Something rejected, as it is remembered."""

    source: str
    reason: str
    times: int
    last_seen: datetime


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What one reply of a source came to; stored wholly or not at all."""

    source: str
    observations: tuple[Observation, ...] = ()
    candles: tuple[Candle, ...] = ()
    headlines: tuple[Headline, ...] = ()
    network: tuple[NetworkStats, ...] = ()
    gaps: tuple[Gap, ...] = ()
    validators: tuple[Validator, ...] = ()
    rejected: tuple[Rejected, ...] = ()


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """How many records a batch added or corrected."""

    observations: int = 0
    candles: int = 0
    headlines: int = 0
    network: int = 0
    rejected: int = 0

    def __add__(self, other: Stored) -> Stored:
        return Stored(**{f: getattr(self, f) + getattr(other, f) for f in self.__struct_fields__})


class SourceHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How a source has been doing."""

    source: str
    last_success: datetime | None = None
    last_failure: datetime | None = None
    reason: str = ""
    """Why it last failed; empty after a success."""
    failures: int = 0
    """Failures in a row."""
    blocked_until: datetime | None = None
    """The circuit breaker or a Retry-After keeps it from being asked before."""
