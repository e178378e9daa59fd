"""Which numbers of a text, with their units, are not among known ones. The rules stand in ``docs/oracle.md``."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from decimal import Decimal

import msgspec

SCALES = {
    "thousand": 3, "k": 3, "million": 6, "m": 6, "billion": 9, "bn": 9, "b": 9, "trillion": 12, "t": 12,
    "萬": 4, "億": 8, "兆": 12,
}  # fmt: skip
NUMBER = re.compile(
    r"(?<![\d.])(?P<sign>(?<![\w.)])[-+−])?"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?P<power>e[-+]?\d{1,4})?"
    r"(?:\s?(?P<scale>thousand|million|billion|trillion|bn|[kmbt]|[萬億兆])(?![a-z]))?"
    r"(?P<percent>\s?(?:%|percent\b|per cent\b))?",
    re.IGNORECASE,
)
SPELLED = re.compile(
    r"\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen"
    r"|(?:twen|thir|for|fif|six|seven|eigh|nine)ty|hundreds?|thousands?|(?:m|b|tr)illions?|dozens?|half|third|quarter"
    r"|twice|doubled?|tripled?|tenfold)\b"
    r"|百分之|[一二三四五六七八九十百千萬億兩半]+(?:成|倍|元|美元|天|日|週|個月|小時|則|筆|次|個百分點|分)"
    r"|[二三四五六七八九十百千萬億兩]{2,}",
    re.IGNORECASE,
)
"""A number in words is not checked, so it is not believed. "one" and 一 are hardly ever numbers."""


UNIT = re.compile(r"(?<=\d )[A-Z]{3,5}\b|[$€£¥]")
"""A currency behind a number, or its sign; one that is not known makes another figure of a known number."""


class Found(msgspec.Struct, frozen=True):
    """A number as it stands in a text."""

    text: str
    value: Decimal
    """Without its sign."""
    last: Decimal
    """The worth of its last digit."""
    sign: str
    percent: bool


def numbers(text: str) -> Iterator[Found]:
    """The numbers of a text in digits; full-width ones are folded first."""
    for match in NUMBER.finditer(unicodedata.normalize("NFKC", text)):
        digits = match["digits"].replace(",", "")
        scale = SCALES.get((match["scale"] or "").casefold(), 0)
        power = Decimal(1).scaleb(scale + int((match["power"] or "e0")[1:]))
        decimals = len(digits.partition(".")[2])
        yield Found(
            text=match.group().strip(),
            value=Decimal(digits) * power,
            last=Decimal(1).scaleb(-decimals) * power,
            sign={"-": "-", "−": "-", "+": "+"}.get(match["sign"] or "", ""),
            percent=bool(match["percent"]),
        )


def foreign(text: str, known: Iterable[str]) -> list[str]:
    """The numbers of a text that no known text has, in order; numbers in words and currencies of its own count, too.

    Args:
        known: texts with the numbers that may stand in it, such as ``RSI (14): 51.76``.
    """
    known = list(known)
    allowed = [number for fact in known for number in numbers(fact)]
    plain = unicodedata.normalize("NFKC", text)
    scaled = {match.span("scale") for match in NUMBER.finditer(plain) if match["scale"]}
    words = [
        match.group()
        for match in SPELLED.finditer(plain)
        if not any(start <= match.start() < end for start, end in scaled)
    ]
    units = {unit for fact in known for unit in UNIT.findall(fact)}
    strange = [unit for unit in UNIT.findall(plain) if unit not in units]
    return [one.text for one in numbers(text) if not any(_same(one, other) for other in allowed)] + words + strange


def _same(written: Found, fact: Found) -> bool:
    """Whether a number repeats a fact: equal, or the fact rounded to the written number's last digit."""
    if written.percent and not fact.percent:
        return False
    if written.sign and written.sign != (fact.sign or "+"):
        return False
    # Rounding to whole units says too little about a number below ten: 0.4 is not "0".
    if written.last >= 1 and fact.value < 10:
        return written.value == fact.value
    return abs(written.value - fact.value) <= written.last / 2
