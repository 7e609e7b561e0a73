"""What occurs more than once is found, however it is spread, and told by its first caption in order."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.dedup import repeats as repeats_module
from pipelines.dedup.key_files import KeysGoneError, name_keys
from pipelines.dedup.repeats import Repeats, Tally
from pipelines.stores.store import LocalStore
from t5enc.errors import OutputError
from tests.pipelines.commit.memory_store import MemoryStore
from tests.pipelines.dedup.key_tables import lay_out

UNITS = st.lists(st.text("abcdefgh", max_size=4), min_size=1, max_size=6)


def find(repeats: Repeats, *, within_units: bool) -> list[str]:
    texts = repeats.read_texts(repeats.find(within_units=within_units))
    return [text for part in texts for text in part.to_pylist()]


@settings(max_examples=20)
@given(UNITS)
def test_each_prompt_that_occurs_more_than_once_is_told_once_in_order(units: list[str]) -> None:
    repeats = lay_out(MemoryStore(), units)
    counts = Counter("".join(units))
    expected = [letter for letter in dict.fromkeys("".join(units)) if counts[letter] > 1]
    assert find(repeats, within_units=True) == expected
    repeated = sum(counts[letter] for letter in expected)
    assert repeats.tally == Tally(captions=counts.total(), repeated=repeated, distinct=len(expected))


@settings(max_examples=20)
@given(UNITS)
def test_what_only_one_unit_repeats_may_be_left_to_it(units: list[str]) -> None:
    found = find(lay_out(MemoryStore(), units), within_units=False)
    assert found == [letter for letter in dict.fromkeys("".join(units)) if sum(letter in unit for unit in units) > 1]


def test_a_file_that_another_run_has_removed_is_missed_as_such(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    repeats = lay_out(store, ["ab", "cd", "ef"])
    store.delete(name_keys(repeats.units[1].id))
    with pytest.raises(KeysGoneError):
        find(repeats, within_units=True)


def test_a_disk_without_room_for_the_keys_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats_module, "MEMORY", "1kB")
    with pytest.raises(OutputError, match=r"content keys are grouped there, .*set TMPDIR"):
        find(lay_out(MemoryStore(), ["abcd"] * 50), within_units=True)
