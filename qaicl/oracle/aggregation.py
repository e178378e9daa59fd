"""Many sources' answers to one question, made into one figure that says how far it may be trusted.

The median of the sources' newest values, after throwing out those too old to compare and those too far from the
rest. A median with a minimum count stands up to one source that lies or fails, where a mean does not; the interval
and the refusal of old values follow Pyth's price ± confidence and ``no_older_than``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from statistics import median

from qaicl.oracle.observations import Figure, Observation, State, utc

MAD_TO_SIGMA = 1.4826
"""Scales the median absolute deviation to a normal distribution's standard deviation."""
CUT = 3.5
"""Modified z-score beyond which a value is an outlier (Iglewicz and Hoaglin, 1993)."""
FLOOR = 0.002
"""Deviation, as a share of the median, below which sources always count as agreeing: exchanges differ by that much."""
SPREAD = 0.02
"""Sources whose values lie wider apart than this share of the median disagree."""
FUTURE = 300.0
"""Seconds by which a source's clock may run ahead of ours."""


PEGGED = ("USDT", "USDC")
"""Count as USD."""


def counted_as(unit: str) -> str:
    """The unit that a value is compared in."""
    return "USD" if unit in PEGGED else unit


def split_outliers(values: Sequence[float]) -> tuple[list[int], list[int]]:
    """Indexes of the values to keep and of those too far from the median, by median absolute deviation.

    Fewer than three values are all kept: two that differ do not say which is wrong.
    """
    if len(values) < 3:
        return list(range(len(values))), []
    centre = median(values)
    deviations = [abs(value - centre) for value in values]
    scale = max(MAD_TO_SIGMA * median(deviations), FLOOR * abs(centre))
    if scale == 0:
        keep = [i for i, deviation in enumerate(deviations) if deviation == 0]
    else:
        keep = [i for i, deviation in enumerate(deviations) if deviation / scale <= CUT]
    return keep, [i for i in range(len(values)) if i not in keep]


def aggregate(
    name: str,
    observations: Iterable[Observation],
    *,
    now: datetime,
    max_age: float,
    min_sources: int = 2,
    spread: float = SPREAD,
    source_max_age: Mapping[str, float] | None = None,
) -> Figure:
    """One figure out of what the sources said.

    Args:
        name: the figure's name, such as ``price``.
        observations: of one asset and metric, any order, any number a source; each source's newest counts.
        now: the moment of judging; an observation from after it (beyond clock error) is not believed.
        max_age: seconds after which a value is STALE.
        min_sources: fewer sources than this make the figure DEGRADED.
        source_max_age: limits of single sources, in place of ``max_age``.
        spread: relative width of the sources' interval beyond which it is DEGRADED.

    Returns:
        ``FRESH``, ``DEGRADED`` or ``STALE`` with value, interval and reasons; ``MISSING`` without observations.
    """
    reasons: list[str] = []
    newest = _newest_by_source(observations, now, reasons)
    if not newest:
        return Figure(
            name=name,
            value=None,
            low=None,
            high=None,
            unit="",
            sources=(),
            observed_at=None,
            age=None,
            state=State.missing,
            reasons=(*reasons, "nothing is stored"),
        )
    limits = {o.source: (source_max_age or {}).get(o.source, max_age) for o in newest}
    in_time, late = _partition(newest, now, limits)
    if in_time:
        reasons += [f"{o.source} left out: {_age(o, now):.0f} s old, limit {limits[o.source]:.0f} s" for o in late]
        candidates = in_time
    else:
        latest = max(o.observed_at for o in late)
        candidates, older = _partition(late, latest, limits)
        reasons += [f"{o.source} left out: older than the others" for o in older]
    candidates = _one_unit(candidates, reasons)
    keep, outliers = split_outliers([_value(o) for o in candidates])
    kept = [candidates[i] for i in keep]
    centre = median(_value(o) for o in kept)
    for i in outliers:
        far = candidates[i]
        reasons.append(f"{far.source} left out: {_value(far):.8g} is too far from the median {centre:.8g}")
    low, high = min(_value(o) for o in kept), max(_value(o) for o in kept)
    age = max(_age(o, now) for o in kept)
    state = State.fresh
    if len(kept) < min_sources:
        state = State.degraded
        reasons.append(f"{len(kept)} of at least {min_sources} sources")
    if centre != 0 and (high - low) / abs(centre) > spread:
        state = State.degraded
        reasons.append(f"sources disagree by {(high - low) / abs(centre):.1%}")
    if not in_time:
        state = State.stale
        limit = max(limits[o.source] for o in kept)
        reasons.append(f"values are up to {age:.0f} s old, limit {limit:.0f} s")
    return Figure(
        name=name,
        value=centre,
        low=low,
        high=high,
        unit=kept[0].unit,
        sources=tuple(sorted(o.source for o in kept)),
        observed_at=min(o.observed_at for o in kept),
        age=age,
        state=state,
        reasons=tuple(reasons),
        hashes=tuple(sorted({o.sha256 for o in kept})),
        recorded=any(o.recorded for o in kept),
    )


def _newest_by_source(observations: Iterable[Observation], now: datetime, reasons: list[str]) -> list[Observation]:
    newest: dict[str, Observation] = {}
    for observation in observations:
        if observation.value is None or not math.isfinite(observation.value):
            continue
        if (utc(observation.observed_at) - now).total_seconds() > FUTURE:
            reasons.append(f"{observation.source} left out: dated {observation.observed_at.isoformat()}, in the future")
            continue
        known = newest.get(observation.source)
        if known is None or observation.observed_at > known.observed_at:
            newest[observation.source] = observation
    return sorted(newest.values(), key=lambda o: o.source)


def _partition(
    observations: Sequence[Observation], now: datetime, limits: Mapping[str, float]
) -> tuple[list[Observation], list[Observation]]:
    in_time = [o for o in observations if _age(o, now) <= limits[o.source]]
    return in_time, [o for o in observations if _age(o, now) > limits[o.source]]


def _one_unit(observations: list[Observation], reasons: list[str]) -> list[Observation]:
    """Only values in the unit that most sources use, dollars where as many do.

    Dollar-pegged USDT and USDC count as USD, and it is said.
    """
    units = {o.source: counted_as(o.unit) for o in observations}
    pegged = sorted({o.unit for o in observations if o.unit in PEGGED})
    votes = sorted(set(units.values()), key=lambda unit: (-list(units.values()).count(unit), unit != "USD", unit))
    reasons += [
        f"{o.source} left out: in {units[o.source]}, not {votes[0]}"
        for o in observations
        if units[o.source] != votes[0]
    ]
    if pegged and len({o.unit for o in observations}) > 1:
        reasons.append(f"{' and '.join(pegged)} counted as USD")
    return [o for o in observations if units[o.source] == votes[0]]


def _age(observation: Observation, now: datetime) -> float:
    return max(0.0, (now - utc(observation.observed_at)).total_seconds())


def _value(observation: Observation) -> float:
    assert observation.value is not None
    return observation.value
