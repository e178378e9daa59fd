"""Many headlines to one mood, with what moved it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from qaicl.oracle.observations import Headline, HeadlineKind, utc
from qaicl.oracle.sentiment.dataset import Label
from qaicl.oracle.sentiment.occlusion import WordEffect, moving_words
from qaicl.oracle.sentiment.scoring import Scored, SentimentModel, score
from qaicl.oracle.sentiment.stories import Story, stories
from qaicl.settings import SentimentSettings

THRESHOLD = 0.15
"""A mean score beyond this is positive or negative, within it neutral."""
FACTORS = 5
RESAMPLES = 1000

METHOD = (
    "Each story's title is scored P(positive) - P(negative). The score is the mean over stories, weighted by outlet, "
    "by news or social, and by age (halved every half-life). Confidence is the share of resamples of the stories "
    "that keep the label, times the stories' mean model confidence. Sentiment describes coverage; it does not predict."
)


class Factor(msgspec.Struct, frozen=True, kw_only=True):
    """One story that moved the score."""

    title: str
    outlet: str
    url: str
    published_at: datetime
    label: Label
    score: float
    confidence: float
    weight: float
    """Share of all weight, 0 to 1."""
    contribution: float
    """weight times score: what the story adds to the report's score."""
    carriers: int
    """How many outlets carried the story."""
    words: tuple[WordEffect, ...]
    sha256: str
    recorded: bool


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the headlines."""

    headlines: int
    stories: int
    duplicates: int
    positive: int
    negative: int
    neutral: int
    too_old: int
    in_future: int
    """Dated later than the moment of the report; never used."""
    blank: int
    news: int
    social: int


class Point(msgspec.Struct, frozen=True):
    """One UTC day's mood: mean score by weight without decay, and the number of stories."""

    day: date
    score: float
    stories: int


class SentimentReport(msgspec.Struct, frozen=True, kw_only=True):
    """The mood of the coverage at a moment."""

    as_of: datetime
    score: float | None
    """-1 to 1; None without a story."""
    label: Label | Literal["unknown"]
    confidence: float
    news: float | None
    social: float | None
    """The score of news and of social posts alone."""
    factors: tuple[Factor, ...]
    counts: Counts
    series: tuple[Point, ...]
    method: str
    model: str
    model_version: str


def summarise(
    headlines: Iterable[Headline],
    now: datetime,
    model: SentimentModel,
    settings: SentimentSettings,
) -> SentimentReport:
    """Dedupe, score, weigh and explain. Same input and model: same report.

    Args:
        now: the report's moment, UTC; what is dated later is not looked at.
    """
    now = utc(now)
    given = list(headlines)
    past = [one for one in given if utc(one.published_at) <= now]
    recent = [one for one in past if now - utc(one.published_at) <= timedelta(hours=settings.window_hours)]
    told = stories(recent)
    scored = score(model, [story.title for story in told])
    worded = sum(story.copies for story in told)
    labels = [one.label for one in scored]
    counts = Counts(
        headlines=len(given),
        stories=len(told),
        duplicates=worded - len(told),
        positive=labels.count("positive"),
        negative=labels.count("negative"),
        neutral=labels.count("neutral"),
        too_old=len(past) - len(recent),
        in_future=len(given) - len(past),
        blank=len(recent) - worded,
        news=sum(story.headline.kind == "news" for story in told),
        social=sum(story.headline.kind == "social" for story in told),
    )
    weights = np.array([_weight(story, now, settings) for story in told])
    scores = np.array([one.score for one in scored])
    mean = _mean(scores, weights)
    label = _label(mean)
    return SentimentReport(
        as_of=now,
        score=mean,
        label=label,
        confidence=_confidence(scores, weights, [one.confidence for one in scored], label),
        news=_part(told, scores, weights, "news"),
        social=_part(told, scores, weights, "social"),
        factors=_factors(told, scored, weights, model),
        counts=counts,
        series=_series(told, scores, settings),
        method=METHOD,
        model=model.name,
        model_version=model.version,
    )


def _weight(story: Story, now: datetime, settings: SentimentSettings) -> float:
    """Outlet weight, times the weight of its kind, halved with every half-life of age."""
    headline = story.headline
    outlet = settings.outlet_weights.get(headline.outlet.casefold(), 1.0)
    kind = settings.social_weight if headline.kind == "social" else 1.0
    age = (now - utc(headline.published_at)) / timedelta(hours=settings.half_life_hours)
    return float(outlet * kind * 0.5**age)


def _mean(scores: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> float | None:
    total = float(weights.sum())
    return float(scores @ weights) / total if total > 0 else None


def _label(mean: float | None) -> Label | Literal["unknown"]:
    if mean is None:
        return "unknown"
    return "positive" if mean > THRESHOLD else "negative" if mean < -THRESHOLD else "neutral"


def _part(
    told: Sequence[Story],
    scores: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    kind: HeadlineKind,
) -> float | None:
    chosen = np.array([story.headline.kind == kind for story in told], dtype=bool)
    return _mean(scores[chosen], weights[chosen]) if chosen.any() else None


def _confidence(
    scores: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    confidences: Sequence[float],
    label: Label | Literal["unknown"],
) -> float:
    """Share of resamples with the same label, times the stories' mean confidence by weight; 0 without stories.

    One story resamples to itself, so the share is taken over the stories plus one of score 0: few stories cannot look
    certain.
    """
    if label == "unknown":
        return 0.0
    scores = np.append(scores, 0.0)
    doubt = np.append(weights, weights.mean())
    drawn = np.random.default_rng(0).integers(len(scores), size=(RESAMPLES, len(scores)))
    kept = sum(_label(_mean(scores[row], doubt[row])) == label for row in drawn) / RESAMPLES
    return kept * float(np.average(confidences, weights=weights))


def _factors(
    told: Sequence[Story], scored: Sequence[Scored], weights: npt.NDArray[np.float64], model: SentimentModel
) -> tuple[Factor, ...]:
    """The stories with the largest share in the score, largest first."""
    total = float(weights.sum())
    if total <= 0:
        return ()
    shares = weights / total
    order = sorted(range(len(told)), key=lambda index: (-abs(shares[index] * scored[index].score), told[index].title))
    chosen = [index for index in order if scored[index].label != "neutral"][:FACTORS]
    words = moving_words(model, [told[index].title for index in chosen])
    return tuple(
        Factor(
            title=told[index].title,
            outlet=told[index].headline.outlet,
            url=told[index].headline.url,
            published_at=told[index].headline.published_at,
            label=scored[index].label,
            score=scored[index].score,
            confidence=scored[index].confidence,
            weight=float(shares[index]),
            contribution=float(shares[index]) * scored[index].score,
            carriers=len(told[index].carriers),
            words=effect,
            sha256=told[index].headline.sha256,
            recorded=told[index].headline.recorded,
        )
        for index, effect in zip(chosen, words, strict=True)
    )


def _series(told: Sequence[Story], scores: npt.NDArray[np.float64], settings: SentimentSettings) -> tuple[Point, ...]:
    days: dict[date, list[tuple[float, float]]] = {}
    for story, value in zip(told, scores, strict=True):
        published = utc(story.headline.published_at)
        days.setdefault(published.astimezone(UTC).date(), []).append(
            (float(value), _weight(story, published, settings))
        )
    points = []
    for day, rows in sorted(days.items()):
        mean = _mean(np.array([value for value, _ in rows]), np.array([weight for _, weight in rows]))
        points.append(Point(day, mean or 0.0, len(rows)))
    return tuple(points)
