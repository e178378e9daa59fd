"""Random numbers that are a pure function of (seed, position): the same on every machine, in any batch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
# splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014): increment and finaliser.
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def mix(value: int) -> int:
    """The splitmix64 finaliser: a bijection of 64-bit numbers in which every input bit changes half of the output."""
    value = ((value ^ (value >> 30)) * _MIX_1) & _MASK
    value = ((value ^ (value >> 27)) * _MIX_2) & _MASK
    return value ^ (value >> 31)


def gumbel(seed: int, position: int, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Standard Gumbel noise, one number for each token id.

    It depends on the id and not on the id's place in ``tokens``, so that a near tie among improbable tokens cannot
    change which token is drawn.
    """
    key = mix((mix(seed & _MASK) + position * _GOLDEN) & _MASK)
    bits = np.uint64(key) + (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(_MIX_1)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(_MIX_2)
    bits ^= bits >> np.uint64(31)
    uniform = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    noise: NDArray[np.float64] = -np.log(-np.log(uniform))
    return noise
