"""What a source is, and what it gets to work with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol, TypeVar

import msgspec

from qaicl.oracle import quality
from qaicl.oracle.http import Client, Reply, bad_reply
from qaicl.oracle.observations import Batch, Candle, Gap, Headline, NetworkStats, Observation, Rejected
from qaicl.oracle.store import Store
from qaicl.settings import OracleSettings

Shape = TypeVar("Shape")
Record = TypeVar("Record")


@dataclass(frozen=True)
class Access:
    """A source's tools."""

    client: Client
    store: Store
    """To ask what is known already; a source never writes."""
    settings: OracleSettings
    keys: dict[str, str] = field(repr=False, default_factory=dict)

    def root(self, source: str, public: str) -> str:
        """The service's root URL, as the settings have it or its public one, without a trailing slash."""
        return self.settings.endpoints.get(source, public).rstrip("/")


class Source(Protocol):
    """One service that is asked."""

    name: str
    """Stands in every record, in health, quotas and settings."""

    def skipped(self) -> str:
        """Why it is not asked at all, such as for want of a key; empty where it is."""

    def fetch(self, now: datetime) -> AsyncIterator[Batch]:
        """What is new, one batch a reply, so that each is stored before the next is asked for.

        Raises:
            SourceError: the service does not answer, refuses, or sends what cannot be understood.
        """


def shaped(reply: Reply, shape: type[Shape]) -> Shape:
    """A JSON reply as a typed value; numbers may come as strings.

    Raises:
        BadReplyError: the reply is not of that shape.
    """
    try:
        return msgspec.convert(reply.json(), shape, strict=False)
    except msgspec.ValidationError as error:
        raise bad_reply(reply, str(error)) from error


def moment(reply: Reply, seconds: float) -> datetime:
    """Seconds since the epoch, as a source wrote them, in UTC.

    Raises:
        BadReplyError: no calendar has that moment.
    """
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise bad_reply(reply, f"{seconds} is no time") from error


def batch(
    reply: Reply,
    *,
    observations: Iterable[Observation] = (),
    candles: Iterable[Candle] = (),
    headlines: Iterable[Headline] = (),
    network: Iterable[NetworkStats] = (),
    gaps: Sequence[Gap] = (),
    rejected: Sequence[Rejected] = (),
) -> Batch:
    """A reply's records, those that cannot be believed set apart."""
    out = list(rejected)

    def believed(records: Iterable[Record], fault: Callable[[Record, datetime], str]) -> tuple[Record, ...]:
        kept = []
        for record in records:
            if reason := fault(record, reply.fetched_at):
                body = msgspec.json.encode(record).decode()
                out.append(Rejected(reason=reason, body=body, sha256=reply.sha256))
            else:
                kept.append(record)
        return tuple(kept)

    return Batch(
        source=reply.source,
        observations=believed(observations, quality.observation_fault),
        candles=believed(candles, quality.candle_fault),
        headlines=believed(headlines, quality.headline_fault),
        network=believed(network, quality.network_fault),
        gaps=tuple(gaps),
        validators=(reply.validator,) if reply.validator else (),
        rejected=tuple(out),
    )
