"""The cache of finished prompts: within its bytes, least recently used out first."""

from __future__ import annotations

from collections import OrderedDict

import torch
from hypothesis import given
from hypothesis import strategies as st

from t5enc.online.prompt_cache import PromptCache, count_bytes

uses = st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 6)), max_size=40)


@given(uses=uses, max_bytes=st.integers(0, 60))
def test_it_is_a_dictionary_that_forgets_what_was_used_longest_ago(
    uses: list[tuple[bool, int, int]], max_bytes: int
) -> None:
    cache, expected = PromptCache(max_bytes), OrderedDict[bytes, torch.Tensor]()
    for is_put, number, rows in uses:
        key, hidden = bytes([number]), torch.full((rows, 1), float(number))
        if is_put:
            cache.put(key, hidden)
            expected.pop(key, None)
            if count_bytes(key, hidden) <= max_bytes:
                expected[key] = hidden
            while sum(count_bytes(*entry) for entry in expected.items()) > max_bytes:
                expected.popitem(last=False)
        else:
            assert cache.get(key) is expected.get(key)
            if key in expected:
                expected.move_to_end(key)
        assert len(cache) == len(expected)
        assert cache.used_bytes == sum(count_bytes(*entry) for entry in expected.items()) <= max_bytes


def test_what_is_too_large_drives_nothing_out() -> None:
    cache = PromptCache(100)
    small, large = torch.zeros(2, 4), torch.zeros(50, 4)
    cache.put(b"small", small)
    cache.put(b"large", large)
    assert cache.get(b"small") is small
    assert cache.get(b"large") is None


@given(sizes=st.lists(st.integers(0, 12), max_size=8), before=st.lists(st.integers(0, 12), max_size=3))
def test_what_is_chosen_is_what_is_there_when_all_were_put(sizes: list[int], before: list[int]) -> None:
    cache = PromptCache(100)
    for place, rows in enumerate(before):
        cache.put(b"before" + bytes([place]), torch.zeros(rows, 2))
    entries = {bytes([place]): torch.zeros(rows, 2) for place, rows in enumerate(sizes)}
    chosen = cache.choose(entries)
    for key, hidden in entries.items():
        cache.put(key, hidden)
    assert chosen == [key for key in entries if cache.get(key) is not None]
