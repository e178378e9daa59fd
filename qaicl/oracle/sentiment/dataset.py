"""Labelled text: the project's own headlines, and files to train on or to evaluate with."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Literal

import msgspec

from qaicl.errors import BadDatasetError

Label = Literal["negative", "positive", "neutral"]
LABELS: tuple[Label, ...] = ("negative", "positive", "neutral")
"""In the numbering of Twitter Financial News: 0 negative, 1 positive, 2 neutral."""

_NAMES = {str(number): label for number, label in enumerate(LABELS)} | {label: label for label in LABELS}
_NAMES |= {"bearish": "negative", "bullish": "positive"}


class Example(msgspec.Struct, frozen=True, omit_defaults=True):
    """One labelled text."""

    text: str
    label: Label
    topic: str = ""


def headlines(part: Literal["train", "heldout", "apart", "hard"]) -> list[Example]:
    """The headlines written for this project.

    The held-out part has topics that the training part has not; ``apart`` was written without sight of the other two,
    ``hard`` with the kinds of error in mind that were seen in them.
    """
    data = (files(__package__) / "data" / f"headlines-{part}.jsonl").read_bytes()
    return [msgspec.json.decode(line, type=Example) for line in data.splitlines() if line]


def read(path: Path) -> list[Example]:
    """Labelled text from a file, by its form.

    ``*.csv`` has the columns ``text,label``, ``*.jsonl`` an object a line with those fields, anything else a
    ``text@label`` a line (Financial PhraseBank's form). A label is a name or a number of `LABELS`.

    Raises:
        BadDatasetError: the file cannot be read, or a line does not fit.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadDatasetError(
            f"cannot read {path}", why=error.strerror or str(error), fix="give a readable file"
        ) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    rows = {".csv": _csv, ".jsonl": _jsonl}.get(path.suffix, _phrasebank)(text, path)
    examples = []
    for number, content, label in rows:
        name = _NAMES.get(label.strip().casefold())
        if name is None:
            raise BadDatasetError(
                f"{path}, line {number}: '{label[:40]}' is not a label",
                why="a label is 0, 1, 2 or negative, positive, neutral",
                fix="mend the line",
            )
        examples.append(Example(content, name))
    if not examples:
        raise BadDatasetError(f"{path} is empty", why="it has no labelled line", fix="give a file with text and labels")
    return examples


def read_texts(path: Path) -> list[str]:
    """The ``text`` of each line of a JSON Lines file; ``-`` is standard input.

    Raises:
        BadDatasetError: the file cannot be read, or a line is not an object with a text.
    """
    try:
        raw = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise BadDatasetError(
            f"cannot read {path}", why=error.strerror or str(error), fix="give a readable file"
        ) from error
    texts = []
    for number, line in enumerate(raw.splitlines(), 1):
        if line.strip():
            try:
                texts.append(msgspec.json.decode(line, type=_Line).text)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise BadDatasetError(
                    f"{path}, line {number} has no text", why=str(error), fix='each line is an object: {"text": "…"}'
                ) from error
    return texts


class _Line(msgspec.Struct):
    text: str


def _csv(text: str, path: Path) -> Iterator[tuple[int, str, str]]:
    reader = csv.DictReader(text.splitlines(keepends=True))
    if not {"text", "label"} <= set(reader.fieldnames or ()):
        raise BadDatasetError(
            f"{path} has not the columns text,label",
            why=f"its first line is {','.join(reader.fieldnames or ())[:80]!r}",
            fix="name the columns text and label",
        )
    for row in reader:
        yield reader.line_num, row["text"] or "", row["label"] or ""


def _jsonl(text: str, path: Path) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = msgspec.json.decode(line, type=dict[str, str | int])
            yield number, str(row["text"]), str(row["label"])
        except (msgspec.MsgspecError, KeyError) as error:
            raise BadDatasetError(
                f"{path}, line {number} is not a labelled text",
                why=str(error),
                fix='each line is an object: {"text": "…", "label": "…"}',
            ) from error


def _phrasebank(text: str, path: Path) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            content, _, label = line.rpartition("@")
            yield number, content, label
