"""How every source is doing, for ``qaicl oracle sources`` and the monitor."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec

from qaicl.errors import SettingsError
from qaicl.oracle.http import CALLS_A_DAY, Client
from qaicl.oracle.observations import SourceHealth
from qaicl.oracle.sources import registry
from qaicl.oracle.sources.protocol import Access
from qaicl.oracle.store import Store
from qaicl.settings import OracleSettings


class SourceState(msgspec.Struct, frozen=True, kw_only=True):
    """One source."""

    source: str
    state: Literal["ok", "failing", "blocked", "skipped", "disabled", "never asked"]
    last_success: datetime | None
    failures: int
    blocked_until: datetime | None
    calls_today: int
    calls_a_day: int | None
    has_key: bool
    reason: str


def overview(
    store: Store,
    settings: OracleSettings,
    keys: dict[str, str],
    *,
    only: str | None = None,
    now: datetime | None = None,
) -> list[SourceState]:
    """Every source that the settings know, in the order they are asked.

    Raises:
        SettingsError: ``only`` names none of them.
    """
    now = now or datetime.now(UTC)
    everything = msgspec.structs.replace(settings, disabled_sources=())
    built = registry.build(Access(Client(store, settings), store, everything, keys))
    health = store.health()
    states = []
    for source in built:
        if only not in (None, source.name):
            continue
        known = health.get(source.name, SourceHealth(source=source.name))
        disabled = source.name in settings.disabled_sources
        state, reason = _state(known, disabled, source.skipped(), now)
        states.append(
            SourceState(
                source=source.name,
                state=state,
                last_success=known.last_success,
                failures=known.failures,
                blocked_until=known.blocked_until,
                calls_today=store.taken(source.name, f"{now:%Y-%m-%d}"),
                calls_a_day=settings.calls_a_day.get(source.name, CALLS_A_DAY.get(source.name)),
                has_key=source.name in keys,
                reason=reason,
            )
        )
    if not states:
        raise SettingsError(f"there is no source '{only}'", fix="run: qaicl oracle sources")
    return states


def _state(
    health: SourceHealth, disabled: bool, skipped: str, now: datetime
) -> tuple[Literal["ok", "failing", "blocked", "skipped", "disabled", "never asked"], str]:
    if disabled:
        return "disabled", "oracle.disabled_sources names it"
    if skipped:
        return "skipped", skipped
    if health.blocked_until is not None and health.blocked_until > now:
        return "blocked", f"until {health.blocked_until:%Y-%m-%d %H:%M:%S} UTC: {health.reason}"
    if health.failures:
        return "failing", health.reason
    return ("ok", "") if health.last_success else ("never asked", "")
