"""Which words moved a score: leave each out and look at the change."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from qaicl.oracle.sentiment.scoring import SentimentModel, score

WORDS = 3
LONGEST = 40
"""Words of a title that are tried; beyond, a title is not one."""


class WordEffect(msgspec.Struct, frozen=True):
    """A word and how much of the title's score it carries (score with it minus score without it)."""

    word: str
    effect: float


def moving_words(model: SentimentModel, titles: Sequence[str]) -> list[tuple[WordEffect, ...]]:
    """For each clean title the `WORDS` words with the largest effect in the direction of its score, largest first."""
    split = [title.split() for title in titles]
    texts = list(titles)
    for words in split:
        texts += [" ".join(words[:index] + words[index + 1 :]) for index in range(min(len(words), LONGEST))]
    scores = [one.score for one in score(model, texts)]
    found: list[tuple[WordEffect, ...]] = []
    start = len(titles)
    for whole, words in zip(scores, split, strict=False):
        count = min(len(words), LONGEST)
        effects = [
            WordEffect(word.strip(".,;:!?\"'()"), whole - without)
            for word, without in zip(words, scores[start : start + count], strict=False)
        ]
        start += count
        moved = [one for one in effects if one.word and one.effect * whole > 0]
        found.append(tuple(sorted(moved, key=lambda one: -abs(one.effect))[:WORDS]))
    return found
