"""Headlines to stories: the same text carried by many outlets counts once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec

from qaicl.oracle.observations import Headline, utc
from qaicl.oracle.sentiment.text import clean

SIMILAR = 0.75
"""Two titles are one story where one has all words of the other, and those are at least this share of its own."""
SPAN = timedelta(hours=48)
"""Syndicated copies appear within two days; the same words later are new."""

NEGATIONS = frozenset(
    ("no", "not", "never", "without", "denies", "denied", "false", "fake", "isn", "aren", "won", "didn")
)
"""A word more that makes it another story."""

_WORD = re.compile(r"[^\W_]+")
_PUBLISHER = re.compile(r"\s[-–—|]\s(?P<name>[^-–—|]{2,40})$")


class Story(msgspec.Struct, frozen=True):
    """One story: its first headline, and who else carried it."""

    headline: Headline
    title: str
    """The cleaned title, without a trailing publisher name."""
    carriers: tuple[str, ...]
    """Every outlet that carried it, in order of publication."""
    copies: int
    """How many headlines became this story."""


def stories(headlines: Iterable[Headline]) -> list[Story]:
    """Group headlines into stories, oldest first; the result does not depend on the headlines' order.

    A headline joins the newest story not older than `SPAN` whose title has the same words, give or take a few that were
    added or cut; one that replaces a word ("rises" by "falls", "Bitcoin" by "Ether") tells another story.
    Headlines without a word are left out.
    """
    groups: list[tuple[frozenset[str], list[Headline], str]] = []
    for headline in sorted(headlines, key=lambda one: (utc(one.published_at), one.outlet, one.title, one.source)):
        title = _title(headline)
        words = frozenset(_WORD.findall(title.casefold()))
        if not words:
            continue
        members = _joined(groups, words, utc(headline.published_at))
        if members is None:
            groups.append((words, [headline], title))
        else:
            members.append(headline)
    return [
        Story(members[0], title, tuple(dict.fromkeys(member.outlet for member in members)), len(members))
        for _, members, title in groups
    ]


def _joined(
    groups: list[tuple[frozenset[str], list[Headline], str]], words: frozenset[str], now: datetime
) -> list[Headline] | None:
    for known, members, _ in reversed(groups):
        if now - utc(members[0].published_at) > SPAN:
            return None
        if _same(words, known):
            return members
    return None


def _same(one: frozenset[str], other: frozenset[str]) -> bool:
    short, long = (one, other) if len(one) <= len(other) else (other, one)
    return short <= long and len(short) >= SIMILAR * len(long) and not (long - short) & NEGATIONS


def _title(headline: Headline) -> str:
    """Aggregators append " - Outlet" to a title; that is not part of the story."""
    title = clean(headline.title)
    match = _PUBLISHER.search(title)
    if match and match["name"].casefold() == clean(headline.outlet).casefold():
        return title[: match.start()]
    return title
