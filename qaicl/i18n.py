"""Translations: English is the key, a catalogue per language lies in ``qaicl/locale``.

A catalogue is a TOML table ``"English text" = "translation"``. A text without an entry stays English, so a
missing translation is visible and never an error.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Literal

Language = Literal["en", "zh-TW"]
LANGUAGES: tuple[Language, ...] = ("en", "zh-TW")


@cache
def catalogue(language: Language) -> dict[str, str]:
    """All translations of one language; empty for English."""
    if language == "en":
        return {}
    text = resources.files("qaicl").joinpath("locale", f"{language}.toml").read_text(encoding="utf-8")
    return {str(key): str(value) for key, value in tomllib.loads(text).items()}


def translator(language: Language) -> Callable[..., str]:
    """A function that translates a text and then fills its ``{name}`` fields."""
    table = catalogue(language)

    def translate(text: str, **fields: object) -> str:
        return table.get(text, text).format(**fields) if fields else table.get(text, text)

    return translate
