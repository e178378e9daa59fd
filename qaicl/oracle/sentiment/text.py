"""Untrusted text made harmless and uniform, the same way in training and in scoring."""

from __future__ import annotations

import html
import re
import unicodedata

MAX_CHARACTERS = 1000
"""A title or post is shorter; what lies beyond would be cut by the tokeniser anyway."""

_TAG = re.compile(r"<[^<>]{0,300}>")
_LINK = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)
_SPACE = re.compile(r"\s+")


def clean(text: str) -> str:
    """Plain one-line text.

    Undoes HTML entities, drops tags and links, folds compatibility characters (NFKC, so that full-width letters and
    ligatures score like plain ones), and drops control, format (zero-width, bidirectional) and private characters,
    which could hide words from a reader or move a terminal's cursor.
    """
    text = html.unescape(text[: 4 * MAX_CHARACTERS])
    text = _LINK.sub(" ", _TAG.sub(" ", text))
    text = unicodedata.normalize("NFKC", text)
    text = "".join(
        " " if character.isspace() else character
        for character in text
        if character.isspace() or unicodedata.category(character)[0] != "C"
    )
    return _SPACE.sub(" ", text).strip()[:MAX_CHARACTERS]
