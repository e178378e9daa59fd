"""What alerts are made of. Labels identify an alert; everything else may change while it fires."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

import msgspec

Labels = dict[str, str]


class Level(StrEnum):
    """How urgent an alert is."""

    info = "info"
    warning = "warning"
    critical = "critical"


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """One measured value: an alert from ``fire_from`` on, and then until it falls below ``clear_below``."""

    labels: Labels
    level: Level
    value: float
    fire_from: float
    clear_below: float
    """At most ``fire_from``; the gap keeps a value that hovers at the threshold from ringing again and again."""
    summary: str
    critical_from: float = math.inf
    """Where the value makes the level: what was critical stays so until it falls below this by the same gap."""


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """A condition that fires, or has just stopped to."""

    labels: Labels
    level: Level
    summary: str
    value: float
    starts_at: datetime
    updated_at: datetime
    ends_at: datetime | None = None
    """None while it fires."""

    @property
    def fingerprint(self) -> str:
        """The alert's identity, from its labels alone."""
        return fingerprint(self.labels)

    @property
    def matchable(self) -> Labels:
        """The labels with the level, as routes, silences and inhibitions match them."""
        return {**self.labels, "level": self.level.value}


class Silence(msgspec.Struct, frozen=True, kw_only=True):
    """Keeps matching alerts quiet for a time; they go on being recorded."""

    id: str
    match: Labels
    starts_at: datetime
    ends_at: datetime
    reason: str


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What a sink is given: the alerts of one group that fire or have ended."""

    key: str
    """Idempotency key: the same message has the same key however often it is sent."""
    at: datetime
    group: Labels
    firing: tuple[Alert, ...]
    resolved: tuple[Alert, ...]

    @property
    def level(self) -> Level:
        """The highest level among the alerts that fire; ``info`` where all have ended."""
        order = list(Level)
        return max((alert.level for alert in self.firing), key=order.index, default=Level.info)

    @property
    def subject(self) -> str:
        """One line."""
        about = " ".join(f"{name}={value}" for name, value in self.group.items())
        if self.firing:
            return f"[{self.level.upper()}:{len(self.firing)}] {about}".rstrip()
        return f"[RESOLVED] {about}".rstrip()

    @property
    def text(self) -> str:
        """The alerts, a line each."""
        lines = [f"{a.level.upper()} since {a.starts_at:%Y-%m-%d %H:%M} UTC: {a.summary}" for a in self.firing]
        lines += [f"RESOLVED at {a.ends_at:%Y-%m-%d %H:%M} UTC: {a.summary}" for a in self.resolved]
        return "\n".join(lines)


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the history."""

    at: datetime
    fingerprint: str
    event: str
    """``firing``, ``level``, ``resolved``, ``notified``, ``delivered``, ``failed``."""
    labels: Labels
    level: str
    text: str


def fingerprint(labels: Mapping[str, str]) -> str:
    """SHA-256 over the sorted labels."""
    return hashlib.sha256(msgspec.json.encode(dict(labels), order="sorted")).hexdigest()


def matches(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether all wanted labels are there with these values; nothing wanted matches everything."""
    return all(labels.get(name) == value for name, value in wanted.items())


def test_message(now: datetime) -> Message:
    """A message that says it is a test."""
    labels = {"alert": "test"}
    alert = Alert(
        labels=labels,
        level=Level.info,
        summary="this is a test of qaicl's alerts",
        value=0,
        starts_at=now,
        updated_at=now,
    )
    key = fingerprint({**labels, "at": now.isoformat()})
    return Message(key=key, at=now, group=labels, firing=(alert,), resolved=())
