"""A dataset keeps as many files open as the system lets it."""

from __future__ import annotations

import resource

import pytest

from t5enc.shards.process import OPEN_FILES, count_files


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(64, 16), (1, 1), (1 << 20, OPEN_FILES), (resource.RLIM_INFINITY, OPEN_FILES)],
)
def test_a_quarter_of_the_files_that_may_be_open_are_kept(
    monkeypatch: pytest.MonkeyPatch, limit: int, expected: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert count_files() == expected
