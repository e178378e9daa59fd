"""Which assets a text names, and text without its markup."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

from qaicl.settings import AssetSettings

_TAG = re.compile(r"<[^>]*>")
SUMMARY = 500
"""Characters of a summary that are kept."""


def assets_named(text: str, assets: Mapping[str, AssetSettings]) -> tuple[str, ...]:
    """The assets whose key or names stand in a text as whole words, in any case."""
    return tuple(
        asset
        for asset, known in assets.items()
        if any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) for name in (asset, *known.names))
    )


def plain(text: str | None) -> str:
    """Text on one line, without HTML tags and entities."""
    return " ".join(html.unescape(_TAG.sub(" ", text or "")).split())
