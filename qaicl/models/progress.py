"""How a long operation on a model says where it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """What is being done."""

    waiting = "waiting"
    resolving = "resolving"
    downloading = "downloading"
    retrying = "retrying"
    extracting = "extracting"
    copying = "copying"
    converting = "converting"
    verifying = "verifying"


@dataclass(frozen=True, slots=True)
class Step:
    """A point reached: ``done`` of ``total`` bytes of ``file``; ``total`` is None where it is not known.

    ``note`` tells why, for example what made a retry necessary.
    """

    phase: Phase
    file: str
    done: int = 0
    total: int | None = None
    note: str = ""


Progress = Callable[[Step], None]


def silent(_step: Step) -> None:
    """Shows nothing."""
