"""The report's charts as SVG text, without a library: they follow the page's colours in light, dark and print.

Colours are CSS classes of the page. Every chart has a title for screen readers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from html import escape
from itertools import pairwise

WIDTH = 760.0
LEFT, RIGHT, TOP, BOTTOM = 8.0, 74.0, 10.0, 22.0

Values = Sequence[float | None]


class Plot:
    """A rectangle with a value axis on the right and marks drawn into it.

    Args:
        low, high: the values at the bottom and the top.
        count: slots on the horizontal axis; marks are placed by slot.
        width: of the drawing; letters keep their size in it, so it should be near the width on the page.
    """

    def __init__(
        self, title: str, low: float, high: float, count: float, height: float = 220.0, width: float = WIDTH
    ) -> None:
        if not high > low:
            low, high = low - (abs(low) or 1.0) * 0.05, high + (abs(high) or 1.0) * 0.05
        self.title = title
        self.low, self.high, self.count = low, high, max(count, 1.0)
        self.height, self.width = height, width
        self._marks: list[str] = []

    def x(self, slot: float) -> float:
        """Horizontal position of a slot."""
        return LEFT + (self.width - LEFT - RIGHT) * slot / self.count

    def y(self, value: float) -> float:
        """Vertical position of a value, kept inside the plot."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return TOP + (self.height - TOP - BOTTOM) * (1 - share)

    def add(self, mark: str) -> None:
        """Draw a piece of SVG."""
        self._marks.append(mark)

    def line(self, values: Values, css: str) -> None:
        """A line through the values; a None breaks it."""
        path, pen_down = [], False
        for slot, value in enumerate(values):
            if value is None:
                pen_down = False
                continue
            path.append(f"{'L' if pen_down else 'M'}{self.x(slot + 0.5):.1f} {self.y(value):.1f}")
            pen_down = True
        self.add(f'<path class="{css}" d="{"".join(path)}"/>')

    def band(self, low: Values, high: Values, css: str) -> None:
        """The area between two lines, where both have values."""
        both = [
            (slot, a, b) for slot, (a, b) in enumerate(zip(low, high, strict=True)) if a is not None and b is not None
        ]
        if len(both) > 1:
            points = [f"{self.x(slot + 0.5):.1f},{self.y(b):.1f}" for slot, _, b in both]
            points += [f"{self.x(slot + 0.5):.1f},{self.y(a):.1f}" for slot, a, _ in reversed(both)]
            self.add(f'<polygon class="{css}" points="{" ".join(points)}"/>')

    def bars(self, values: Values, up: str, down: str, base: float = 0.0) -> None:
        """A bar a value, from the base."""
        width = max(0.6, (self.width - LEFT - RIGHT) / self.count * 0.72)
        for slot, value in enumerate(values):
            if value is not None:
                top, bottom = sorted((self.y(value), self.y(base)))
                self.add(
                    f'<rect class="{up if value >= base else down}" x="{self.x(slot + 0.5) - width / 2:.1f}" '
                    f'y="{top:.1f}" width="{width:.1f}" height="{max(bottom - top, 0.5):.1f}"/>'
                )

    def level(self, value: float, css: str, label: str = "") -> None:
        """A horizontal line with a label on the axis."""
        y = self.y(value)
        self.add(f'<line class="{css}" x1="{LEFT}" x2="{self.width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if label:
            self.add(f'<text class="tick" x="{self.width - RIGHT + 8}" y="{y + 3.5:.1f}">{escape(label)}</text>')

    def dot(self, slot: float, value: float, css: str, title: str = "", radius: float = 3.5) -> None:
        """A point with a tooltip."""
        tip = f"<title>{escape(title)}</title>" if title else ""
        self.add(
            f'<circle class="{css}" cx="{self.x(slot):.1f}" cy="{self.y(value):.1f}" r="{radius:.1f}">{tip}</circle>'
        )

    def value_axis(self, shown: Sequence[tuple[float, str]]) -> None:
        """Grid lines with labels."""
        for value, label in shown:
            self.level(value, "grid", label)

    def time_axis(self, times: Sequence[datetime], wanted: int = 6) -> None:
        """Day labels below the plot."""
        days = [i for i in range(1, len(times)) if times[i].date() != times[i - 1].date()]
        step = max(1, math.ceil(len(days) / wanted))
        for i in days[::step]:
            if self.x(i) < self.width - RIGHT - 20:
                self.add(
                    f'<line class="grid" x1="{self.x(i):.1f}" x2="{self.x(i):.1f}" y1="{TOP}" '
                    f'y2="{self.height - BOTTOM}"/>'
                )
                self.add(f'<text class="tick mid" x="{self.x(i):.1f}" y="{self.height - 6}">{times[i]:%m-%d}</text>')

    def svg(self) -> str:
        """The finished chart."""
        label = escape(self.title, quote=True)
        return (
            f'<svg viewBox="0 0 {self.width:.0f} {self.height:.0f}" role="img" aria-label="{label}">'
            f"<title>{escape(self.title)}</title>{''.join(self._marks)}</svg>"
        )


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round values between low and high, about so many."""
    if not high > low:
        return [low]
    raw = (high - low) / wanted
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step) + 1)]


def labels(values: Sequence[float]) -> list[tuple[float, str]]:
    """Round values with their labels, all with the same decimals, and no more than tell them apart."""
    step = min((b - a for a, b in pairwise(values)), default=0.0) or abs(values[0]) or 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    # 2.5 and 0.25 are steps, too.
    if abs(step * 10**decimals - round(step * 10**decimals)) > 1e-6:
        decimals += 1
    return [(value, f"{value:,.{decimals}f}" if abs(value) > step / 2 else "0") for value in values]


def gauge(score: float, medium: float, high: float, title: str, label: str, tone: str) -> str:
    """A half-circle dial of 0..100 with its grades coloured and a needle at the score."""
    cx, cy, radius = 130.0, 120.0, 96.0

    def at(value: float, r: float) -> str:
        angle = math.pi * (1 - value / 100)
        return f"{cx + r * math.cos(angle):.1f} {cy - r * math.sin(angle):.1f}"

    parts = [
        f'<path class="arc {css}" d="M{at(a, radius)}A{radius} {radius} 0 0 1 {at(b, radius)}"/>'
        for a, b, css in ((0, medium - 1, "good"), (medium + 1, high - 1, "warn"), (high + 1, 100, "bad"))
    ]
    parts.append(f'<path class="needle" d="M{at(score, radius - 22)}L{at(score, radius + 12)}"/>')
    parts.append(f'<text class="dial {tone}" x="{cx}" y="{cy - 22}">{score:.0f}</text>')
    parts.append(f'<text class="dial-label {tone}" x="{cx}" y="{cy + 4}">{escape(label)}</text>')
    parts.append(f'<text class="tick mid" x="{cx - radius}" y="{cy + 16}">0</text>')
    parts.append(f'<text class="tick mid" x="{cx + radius}" y="{cy + 16}">100</text>')
    return (
        f'<svg class="gauge" viewBox="0 0 260 142" role="img" aria-label="{escape(title, quote=True)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def calibration(bins: Sequence[tuple[float, float, int]], title: str, said: str, happened: str) -> str:
    """Forecast probability against how often it came true; on the diagonal a forecaster is honest.

    Args:
        bins: (mean forecast, share that happened, count) of each non-empty bin.
    """
    size, left, top = 250.0, 44.0, 10.0
    span = size - left - 12

    def x(p: float) -> float:
        return left + span * p

    def y(p: float) -> float:
        return top + span * (1 - p)

    parts = []
    for p in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<line class="grid" x1="{x(0):.1f}" x2="{x(1):.1f}" y1="{y(p):.1f}" y2="{y(p):.1f}"/>')
        parts.append(f'<line class="grid" y1="{y(0):.1f}" y2="{y(1):.1f}" x1="{x(p):.1f}" x2="{x(p):.1f}"/>')
        parts.append(f'<text class="tick end" x="{left - 6}" y="{y(p) + 3.5:.1f}">{p:g}</text>')
        parts.append(f'<text class="tick mid" x="{x(p):.1f}" y="{y(0) + 15:.1f}">{p:g}</text>')
    parts.append(f'<line class="diagonal" x1="{x(0):.1f}" y1="{y(0):.1f}" x2="{x(1):.1f}" y2="{y(1):.1f}"/>')
    most = max((count for _, _, count in bins), default=1)
    for predicted, share, count in bins:
        radius = 3 + 7 * math.sqrt(count / most)
        parts.append(
            f'<circle class="bin" cx="{x(predicted):.1f}" cy="{y(share):.1f}" r="{radius:.1f}">'
            f"<title>{predicted:.2f} → {share:.2f} (n = {count})</title></circle>"
        )
    parts.append(f'<text class="tick mid" x="{x(0.5):.1f}" y="{y(0) + 31:.1f}">{escape(said)}</text>')
    parts.append(f'<text class="tick mid" transform="translate(11 {y(0.5):.1f}) rotate(-90)">{escape(happened)}</text>')
    return (
        f'<svg class="square" viewBox="0 0 250 250" role="img" aria-label="{escape(title, quote=True)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
