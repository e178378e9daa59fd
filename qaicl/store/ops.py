"""What can be asked of the store, and its answers. Payloads are opaque bytes.

A request's tokens are numbered from 0. Operations with an ``epoch`` are refused with ``Stale`` once a newer leader has
spoken. Each operation is one script, so it happens wholly or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["open", "done", "failed"]
End = Literal["done", "failed"]
Registry = Literal["node", "orchestrator"]

# --- lease ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Acquire:
    """Lead, where no lease is live, with an epoch above all known ones and above ``floor``."""

    holder: str
    ttl_ms: int
    floor: int = 0


@dataclass(frozen=True, slots=True)
class Renew:
    """Go on leading; also where the lease ran out or was lost, as long as nobody took over."""

    holder: str
    epoch: int
    ttl_ms: int


@dataclass(frozen=True, slots=True)
class TakeOver:
    """Lead in place of a dead holder whose lease still runs at ``expected_epoch``."""

    holder: str
    expected_epoch: int
    ttl_ms: int
    floor: int = 0


@dataclass(frozen=True, slots=True)
class Release:
    """Stop leading, so that another need not wait."""

    holder: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Leased:
    """The caller leads with this epoch."""

    epoch: int
    holder: str


@dataclass(frozen=True, slots=True)
class Held:
    """The caller does not lead. ``epoch`` is the highest known; ``holder`` is empty where no lease is live."""

    epoch: int
    holder: str


@dataclass(frozen=True, slots=True)
class Released:
    """The lease is free."""


# --- requests ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Accept:
    """Make a request durable, once: ``Accepted``, ``Exists`` or ``Stale``."""

    id: str
    payload: bytes
    epoch: int


@dataclass(frozen=True, slots=True)
class RecordTokens:
    """Record tokens from position ``first`` on; those that are there already are passed over.

    ``Recorded``, ``Gap``, ``Missing``, ``Ended`` or ``Stale``.
    """

    id: str
    epoch: int
    first: int
    tokens: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """Record how a request ended, once: ``Finished``, ``Ended``, ``Gap``, ``Missing`` or ``Stale``.

    ``tokens`` is how many must be there by now; -1 does not ask.
    """

    id: str
    epoch: int
    state: End
    result: bytes
    tokens: int = -1


@dataclass(frozen=True, slots=True)
class Reaccept:
    """Put a request back as the caller knows it, where the store has less of it.

    ``Recorded``, or ``Finished`` where ``state`` is not open, ``Ended`` or ``Stale``.
    """

    id: str
    epoch: int
    payload: bytes
    tokens: tuple[bytes, ...]
    state: State = "open"
    result: bytes = b""


@dataclass(frozen=True, slots=True)
class Load:
    """Read one request: ``Loaded``."""

    id: str


@dataclass(frozen=True, slots=True)
class LoadOpen:
    """Read requests that have not ended, oldest first: ``Open``. ``after`` goes on where the last answer stopped."""

    after: str = ""
    count: int = 100


@dataclass(frozen=True, slots=True)
class Verify:
    """How much of these requests is recorded? ``Verified``."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Accepted:
    """The request is durable."""


@dataclass(frozen=True, slots=True)
class Exists:
    """The request was there before."""

    state: State


@dataclass(frozen=True, slots=True)
class Recorded:
    """The first ``upto`` tokens are durable."""

    upto: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Refused: only ``length`` tokens are recorded, so some would be left out."""

    length: int


@dataclass(frozen=True, slots=True)
class Missing:
    """Refused: the store does not know the request."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Refused: the request has ended before."""

    state: End


@dataclass(frozen=True, slots=True)
class Finished:
    """The outcome is durable."""


@dataclass(frozen=True, slots=True)
class Stale:
    """Refused: ``holder`` leads, or led last, with ``epoch``."""

    epoch: int
    holder: str


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """A request as recorded. ``accepted`` is the server's clock, in seconds since 1970."""

    id: str
    state: State
    payload: bytes
    accepted: float
    tokens: tuple[bytes, ...]
    result: bytes


@dataclass(frozen=True, slots=True)
class Loaded:
    """The request, or None where there is none (any more)."""

    request: StoredRequest | None


@dataclass(frozen=True, slots=True)
class Open:
    """Some open requests; ``after`` is empty when there are no more."""

    requests: tuple[StoredRequest, ...]
    after: str


@dataclass(frozen=True, slots=True)
class Verified:
    """Of each request that was asked for: its state, None where it is not there, and how many tokens it has."""

    requests: dict[str, tuple[State | None, int]]


# --- registry ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Announce:
    """Put a record into a registry, or keep it there, for ``ttl_ms``: ``Announced``."""

    registry: Registry
    name: str
    incarnation: str
    record: bytes
    ttl_ms: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Take a record out, unless another incarnation has the name by now: ``Withdrawn``."""

    registry: Registry
    name: str
    incarnation: str


@dataclass(frozen=True, slots=True)
class List:
    """The live records: ``Listed``."""

    registry: Registry


@dataclass(frozen=True, slots=True)
class Announced:
    """The record is there."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The record is not there, or another's."""


@dataclass(frozen=True, slots=True)
class Listed:
    """Records by name."""

    records: dict[str, bytes]


Op = (
    RecordTokens
    | Accept
    | Finish
    | Reaccept
    | Load
    | LoadOpen
    | Verify
    | Acquire
    | Renew
    | TakeOver
    | Release
    | Announce
    | Withdraw
    | List
)
Reply = (
    Recorded
    | Accepted
    | Exists
    | Finished
    | Ended
    | Gap
    | Missing
    | Stale
    | Loaded
    | Open
    | Verified
    | Leased
    | Held
    | Released
    | Announced
    | Withdrawn
    | Listed
)
