"""``python -m tests.simulation``: many seeds, or one again."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time

from tests.simulation.faults import Break, draw, scale_of
from tests.simulation.world import BrokenPromiseError, World


def outcome_of(seed: int, broken: Break = Break.nothing) -> tuple[int, str, int, int]:
    """(seed, what was broken or "", events, requests that ended with an error)."""
    world = World(seed, scale_of(seed), broken)
    try:
        world.run()
    except BrokenPromiseError as error:
        return seed, str(error), world.events, world.failed
    return seed, "", world.events, world.failed


def main() -> int:
    """Run; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many, from --first on")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, help="only this one, with its faults")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.seed is not None:
        scale = scale_of(arguments.seed)
        sys.stdout.write(f"{scale}\n" + "".join(f"{fault}\n" for fault in draw(arguments.seed, scale)))
        _, broken, events, failed = outcome_of(arguments.seed)
        sys.stdout.write(f"{events} events, {failed} failed requests; {broken or 'every promise held'}\n")
        return 1 if broken else 0
    begun = time.monotonic()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    bad = events = failed = 0
    with multiprocessing.Pool(arguments.workers) as pool:
        for seed, broken, run_events, run_failed in pool.imap_unordered(outcome_of, seeds, chunksize=5):
            events += run_events
            failed += run_failed
            if broken:
                bad += 1
                sys.stdout.write(f"seed {seed}: {broken}\n  again: python -m tests.simulation --seed {seed}\n")
    seconds = time.monotonic() - begun
    sys.stdout.write(
        f"{len(seeds)} seeds, {events} events, {failed} requests ended with a clear failure, "
        f"{bad} broke a promise; {seconds:.0f} s\n"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
