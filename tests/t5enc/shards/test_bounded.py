"""What is kept weighs no more than it may, and is what was used last."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from t5enc.shards.bounded import Bounded


@given(most=st.integers(0, 20), keys=st.lists(st.integers(1, 9)))
def test_what_was_used_last_stays_up_to_the_bound(most: int, keys: list[int]) -> None:
    """A key weighs itself here."""
    kept: Bounded[int] = Bounded(most, lambda value: value)
    for key in keys:
        assert kept.get(key, lambda key=key: key) == key
        assert kept.find(key) == key
        present = [other for other in range(1, 10) if other != key and other in kept._values]
        assert kept.weight == sum(present) + key
        assert kept.weight <= max(most, key)
    last = list(dict.fromkeys(reversed(keys)))
    weight = 0
    for key in last:
        weight += key
        if weight <= most:
            assert key in kept._values


def test_a_value_is_loaded_once_while_it_is_kept() -> None:
    kept: Bounded[str] = Bounded(1)
    loaded: list[str] = []

    def load(name: str) -> str:
        loaded.append(name)
        return name

    for name in "aabaa":
        kept.get(name, lambda name=name: load(name))
    assert loaded == ["a", "b", "a"]
    assert len(kept) == 1
