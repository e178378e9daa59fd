"""Turns generated token ids into visible text, one token at a time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from qaicl.inference.engine import Sampling, TextStep


class Detokenizer(Protocol):
    """Decodes ids incrementally. The pieces of ``push`` and one ``flush`` together are the whole text."""

    def push(self, token: int) -> str:
        """The text that this token completes; empty while a UTF-8 sequence is incomplete."""
        ...

    def flush(self) -> str:
        """What was held back; an incomplete UTF-8 sequence comes as U+FFFD."""
        ...


class StopFilter:
    """Lets text through up to the first stop string, holding back what could become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Add text; returns what is decided to be visible, and whether a stop string has appeared."""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            visible, self._held = self._held[: min(found)], ""
            return visible, True
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        visible, self._held = self._held[:cut], self._held[cut:]
        return visible, False

    def flush(self) -> str:
        """What was held back: no stop string can come of it any more."""
        visible, self._held = self._held, ""
        return visible

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that is a beginning of ``stop``."""
        for size in range(min(len(stop) - 1, len(self._held)), 0, -1):
            if self._held.endswith(stop[:size]):
                return size
        return 0


class GeneratedText:
    """The ``TextStream`` of every engine here.

    Args:
        detokenizer: fresh, for this request only.
        end_tokens: ids that end an answer; they show no text and finish with "stop".
        sampling: gives ``max_tokens`` and ``stop``.
    """

    def __init__(self, detokenizer: Detokenizer, end_tokens: Collection[int], sampling: Sampling) -> None:
        self._detokenizer = detokenizer
        self._end_tokens = end_tokens
        self._filter = StopFilter(sampling.stop)
        self._left = sampling.max_tokens
        self._finish = ""

    def push(self, token: int) -> TextStep:
        """Add one generated token; tokens after the one that finished add nothing."""
        if self._finish:
            return TextStep("", self._finish)
        self._left -= 1
        if token in self._end_tokens:
            return self._end("", "stop")
        visible, stopped = self._filter.push(self._detokenizer.push(token))
        if stopped:
            self._finish = "stop"
        elif self._left <= 0:
            return self._end(visible, "length")
        return TextStep(visible, self._finish)

    def _end(self, visible: str, finish: str) -> TextStep:
        rest, stopped = self._filter.push(self._detokenizer.flush())
        self._finish = "stop" if stopped else finish
        return TextStep(visible + rest + self._filter.flush(), self._finish)
