"""What can go wrong in a simulated run, drawn from its seed, and rules that a run may break on purpose."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class Break(StrEnum):
    """A promise's mechanism, switched off to show that the simulation notices."""

    nothing = "nothing"
    no_fencing = "no-fencing"
    no_replay = "no-replay"
    no_dedupe = "no-dedupe"


@dataclass(frozen=True)
class Scale:
    """How large a run is."""

    nodes: int
    orchestrators: int
    requests: int
    tokens: int
    faults: int
    seconds: float
    """Virtual seconds during which faults happen; all is healed then."""


def scale_of(seed: int) -> Scale:
    """Sizes drawn from the seed: 3 to 20 nodes, now and then 100."""
    rng = random.Random(seed ^ 0x5CA1E)
    if seed % 100 == 99:
        return Scale(100, 3, 30, 6, 10, 20.0)
    return Scale(rng.randint(3, 20), rng.randint(2, 3), rng.randint(3, 10), rng.randint(1, 14), rng.randint(0, 6), 20.0)


@dataclass(frozen=True)
class Fault:
    """One fault: what, to whom, from when, for how long."""

    kind: str
    target: str
    other: str
    at: float
    lasts: float


KINDS = (
    "crash-node",
    "crash-node",
    "pause-node",
    "slow-node",
    "crash-leader",
    "pause-leader",
    "partition-nodes",
    "partition-leader",
    "lossy",
    "duplicating",
    "reordering",
    "store-restart",
    "store-failover",
    "client-leaves",
)


def draw(seed: int, scale: Scale) -> list[Fault]:
    """The faults of a run. Skewed clocks are drawn with the processes."""
    rng = random.Random(seed ^ 0xFA017)
    faults = []
    for _ in range(scale.faults):
        target, other = rng.sample([f"node-{number}" for number in range(scale.nodes)], 2)
        at, lasts = rng.uniform(0.0, scale.seconds), rng.uniform(0.5, 8.0)
        faults.append(Fault(rng.choice(KINDS), target, other, at, lasts))
    return sorted(faults, key=lambda fault: fault.at)
