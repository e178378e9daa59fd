"""Translations: English is the key, a catalogue per language lies in ``qaicl/locale``.

A catalogue is a TOML table ``"English text" = "translation"``. A text without an entry stays English, so a
missing translation is visible and never an error.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib import resources
from string import Formatter
from typing import Literal

Language = Literal["en", "zh-TW"]
LANGUAGES: tuple[Language, ...] = ("en", "zh-TW")
NUMBER = r"[-+−]?\d[\d.,eE+-]*(?: ?%)?"
TEXT = r"(?:(?!; |: ).)+?"
"""Not two joined texts: each of them may have a translation of its own."""
JOINTS = {"; ": "；", ": ": "："}
"""What several filled texts are joined with, and what joins their translations."""


@cache
def catalogue(language: Language) -> dict[str, str]:
    """All translations of one language; empty for English."""
    if language == "en":
        return {}
    text = resources.files("qaicl").joinpath("locale", f"{language}.toml").read_text(encoding="utf-8")
    return {str(key): str(value) for key, value in tomllib.loads(text).items()}


class Translator:
    """Translates into one language."""

    def __init__(self, language: Language) -> None:
        self._table = catalogue(language)
        self._forms = _forms(language)

    def __call__(self, text: str, **fields: object) -> str:
        """Translate a text and then fill its ``{name}`` fields."""
        found = self._table.get(text, text)
        return found.format(**fields) if fields else found

    def filled(self, text: str) -> str:
        """Translate a text that was filled where it was written, such as a reason that lies in the database.

        It is compared with the keys that have fields: one of a single letter is a number, any other a text, which is
        translated in turn. Texts joined by a semicolon or a colon are translated one by one.
        """
        if text in self._table:
            return self._table[text]
        for pattern, key in self._forms:
            if match := pattern.fullmatch(text):
                fields = {name: self.filled(value) for name, value in match.groupdict().items()}
                return self._table[key].format(**fields)
        for joint, written in JOINTS.items():
            if joint in text:
                first, rest = text.split(joint, 1)
                parts = self.filled(first), self.filled(rest)
                if parts != (first, rest):
                    return written.join(parts)
        return text


@cache
def _forms(language: Language) -> tuple[tuple[re.Pattern[str], str], ...]:
    """The keys with fields as patterns, those with most fixed text first."""
    found = []
    for key in catalogue(language):
        pieces = list(Formatter().parse(key))
        if any(field for _, field, _, _ in pieces):
            pattern, seen = "", set[str]()
            for literal, field, _, _ in pieces:
                pattern += re.escape(literal)
                if field:
                    kind = NUMBER if len(field) == 1 else TEXT
                    pattern += f"(?P={field})" if field in seen else f"(?P<{field}>{kind})"
                    seen.add(field)
            found.append((sum(len(literal) for literal, _, _, _ in pieces), re.compile(pattern, re.DOTALL), key))
    return tuple((pattern, key) for _, pattern, key in sorted(found, key=lambda one: -one[0]))


@cache
def translator(language: Language) -> Translator:
    """The translator into a language."""
    return Translator(language)
