"""Attempt numbers: one integer that grows over plans and over leaders."""

from __future__ import annotations

PLANS_PER_EPOCH = 1 << 20


def first_attempt(epoch: int) -> int:
    """The attempt number before the first plan of a leader; any plan of an older leader is below it."""
    return epoch * PLANS_PER_EPOCH


def task_key(request: str, attempt: int) -> str:
    """What the engine calls a task."""
    return f"{request}/{attempt}"
