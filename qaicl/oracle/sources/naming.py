"""Which assets a text names, and text without its markup."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Mapping

from qaicl.settings import AssetSettings

_HIDDEN = re.compile(r"<(script|style)\b(?:(?!<\1\b).)*?</\1\s*>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[^<>]*>")
# Neither looks past the next beginning of its kind, so that a text full of beginnings takes no time.
TITLE = 500
SUMMARY = 500
"""Characters of a title and of a summary that are kept."""
OUTLET = 256
"""The same of an outlet's name: what the database has room for."""
LINK = 2000
"""A longer address is left out."""


def assets_named(text: str, assets: Mapping[str, AssetSettings]) -> tuple[str, ...]:
    """The assets whose key or names stand in a text as whole words, in any case."""
    return tuple(
        asset
        for asset, known in assets.items()
        if any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) for name in (asset, *known.names))
    )


def plain(text: str | None) -> str:
    """Text on one line: no HTML, no scripts, no control or direction-changing characters."""
    unescaped = html.unescape(_TAG.sub(" ", _HIDDEN.sub(" ", text or "")))
    # Unescaping may have brought tags into being; they go too.
    stripped = _TAG.sub(" ", _HIDDEN.sub(" ", unescaped))
    return " ".join("".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in stripped).split())


def link(url: str | None) -> str:
    """An address as it came; empty where it is too long or holds what no address does, such as control characters."""
    return url if url and len(url) <= LINK and url.isprintable() else ""
