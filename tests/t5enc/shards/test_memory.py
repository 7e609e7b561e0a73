"""A block comes back when nobody holds any part of it, and not before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from t5enc.shards.memory import KEPT_BYTES, SMALLEST, BatchMemory


def find_address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def test_a_block_serves_again_when_its_array_is_gone() -> None:
    memory = BatchMemory()
    array = memory.take(4 * SMALLEST)
    address = find_address(array)
    assert find_address(memory.take(4 * SMALLEST)) != address
    del array
    found = {find_address(memory.take(4 * SMALLEST - 5)) for _ in range(3)}
    assert address in found | {find_address(memory.take(4 * SMALLEST))}


HOLD = {
    "a slice": lambda array: array[7:9],
    "a view of another dtype": lambda array: array.view(np.float16)[3:].reshape(1, -1),
    "a tensor": torch.from_numpy,
    "a view of a tensor": lambda array: torch.from_numpy(array).view(torch.float16).view(2, -1)[1, 5:6],
    "an array over a tensor": lambda array: torch.from_numpy(array).view(torch.float32)[1:].numpy(),
}


@pytest.mark.parametrize("held", HOLD)
def test_whatever_holds_a_part_of_it_keeps_a_block(held: str) -> None:
    memory = BatchMemory()
    array = memory.take(2 * SMALLEST)
    address, part = find_address(array), HOLD[held](array)
    del array
    others = [memory.take(2 * SMALLEST) for _ in range(3)]
    assert address not in map(find_address, others)
    del part
    assert find_address(memory.take(2 * SMALLEST)) == address


def test_small_arrays_are_the_allocators_matter() -> None:
    memory = BatchMemory()
    assert len(memory.take(0)) == 0
    assert len(memory.take(SMALLEST - 1)) == SMALLEST - 1
    memory.take(SMALLEST)
    assert len(memory._returned) == 1


def test_a_block_much_too_large_is_left_for_another() -> None:
    memory = BatchMemory()
    address = find_address(memory.take(80 * SMALLEST))
    assert find_address(memory.take(SMALLEST)) != address
    assert find_address(memory.take(60 * SMALLEST)) == address


def test_what_is_free_is_bounded() -> None:
    memory = BatchMemory()
    arrays = [memory.take(KEPT_BYTES // 5) for _ in range(9)]
    arrays.clear()
    memory.take(SMALLEST)
    assert sum(map(len, memory._free)) <= KEPT_BYTES
    assert memory._free


def test_no_two_threads_have_the_same_block() -> None:
    memory = BatchMemory()

    def fill(number: int) -> bool:
        is_alone = True
        for _ in range(30):
            array = memory.take(SMALLEST + number)
            array[:] = number
            is_alone &= bool((array == number).all())
        return is_alone

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(fill, range(8)))
