"""Numbers that are a function of a key and a counter: nothing is kept, and any of them is had without those before.

The mix is the finaliser of SplitMix64 (Steele, Lea and Flood, 2014; constants: Stafford's variant 13), and the n-th
number of a key is the n-th of the SplitMix64 generator that begins there. What comes out must never change: runs that
are resumed under a later release depend on it.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Words: TypeAlias = NDArray[np.uint64]
GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1
_SHIFTS = (30, 27, 31)
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def derive_key(*parts: int) -> int:
    """A key of 64 bits made of whole numbers from 0 to 2**64 - 1, in which their order counts."""
    key = 0
    for part in parts:
        key = _mix_number(((key ^ _mix_number((part + GOLDEN) & MASK)) + GOLDEN) & MASK)
    return key


def mix(words: Words) -> Words:
    """Words (N,) scattered over all 64 bits, one to one."""
    words = words ^ (words >> np.uint64(_SHIFTS[0]))
    words *= np.uint64(_FACTORS[0])
    words ^= words >> np.uint64(_SHIFTS[1])
    words *= np.uint64(_FACTORS[1])
    words ^= words >> np.uint64(_SHIFTS[2])
    return words


def draw_uniform(key: int, counters: NDArray[np.int64]) -> NDArray[np.float64]:
    """Numbers (N,) in [0, 1), evenly: those that stand at these places (N,), from 0, of the key's sequence."""
    words = (counters.astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN) + np.uint64(key)
    numbers: NDArray[np.float64] = (mix(words) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers


def _mix_number(word: int) -> int:
    word = ((word ^ (word >> _SHIFTS[0])) * _FACTORS[0]) & MASK
    word = ((word ^ (word >> _SHIFTS[1])) * _FACTORS[1]) & MASK
    return word ^ (word >> _SHIFTS[2])
