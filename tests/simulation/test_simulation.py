"""A thousand clusters with drawn faults keep every promise; and a broken rule is noticed."""

from __future__ import annotations

import pytest

from tests.simulation.__main__ import outcome_of
from tests.simulation.faults import Break, scale_of
from tests.simulation.world import World

SEEDS = 1000
PIECE = 50


@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(0, SEEDS, PIECE))
def test_every_promise_holds(first: int) -> None:
    broken = [(seed, what) for seed in range(first, first + PIECE) if (what := outcome_of(seed)[1])]
    assert not broken, "again with: " + "; ".join(
        f"python -m tests.simulation --seed {seed}  # {what}" for seed, what in broken
    )


@pytest.mark.parametrize("broken", [Break.no_fencing, Break.no_replay, Break.no_dedupe])
def test_a_broken_rule_is_noticed(broken: Break) -> None:
    assert any(outcome_of(seed, broken)[1] for seed in range(200)), f"{broken} went unnoticed"


def test_a_seed_runs_the_same_way_again() -> None:
    runs = []
    for _ in range(2):
        world = World(4, scale_of(4))
        world.run()
        runs.append((world.events, [(client.outcome, client.tokens) for client in world.clients.values()]))
    assert runs[0] == runs[1]


def test_most_requests_are_answered_in_spite_of_the_faults() -> None:
    runs = [outcome_of(seed) for seed in range(40)]
    total = sum(scale_of(seed).requests for seed in range(40))
    assert sum(failed for *_, failed in runs) / total < 0.02
