"""The forecasts' true record in a sentence or two, the same in every renderer."""

from __future__ import annotations

from qaicl.oracle.report.wording import Translate, moment, percent
from qaicl.oracle.track_record import LiveRecord


def live_text(live: LiveRecord, t: Translate) -> str:
    """What came of the forecasts that were written down, or why nothing can be said of it."""
    if live.recorded:
        return t("none: recorded observations have no forecasts of their own")
    if not live.kept:
        return t("none: only forecasts for 24 h are written down")
    if not live.made:
        return t("none yet: the oracle's daemon writes each forecast down when it is made")
    if live.accuracy is None or live.constant is None:
        return t(
            "none yet: {n} forecasts are written down since {since}, the first outcome is due {due}",
            n=live.made,
            since=moment(live.since),
            due=moment(live.next_at),
        )
    told = (
        t(
            "{p} of {n} forecasts since {since} named the right direction",
            p=percent(live.accuracy.value, 1),
            n=live.resolved,
            since=moment(live.since),
        ),
        t(
            "95 % interval {a} – {b} over the {n} that do not overlap",
            a=percent(live.accuracy.low, 1),
            b=percent(live.accuracy.high, 1),
            n=f"{live.effective:.0f}",
        ),
        t("always naming the more frequent direction would have had {p}", p=percent(live.constant, 1)),
        t(
            "Brier score {a}, base rate in hindsight {b}",
            a="–" if live.brier is None else f"{live.brier:.3f}",
            b="–" if live.brier_base is None else f"{live.brier_base:.3f}",
        ),
    )
    return t("; ").join(told)
