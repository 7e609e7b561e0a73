"""Attempts are made again while it is worth it, and counted."""

from __future__ import annotations

import pytest

from pipelines.stores import retrying
from pipelines.stores.retrying import count_retries, retry


class Flaky:
    """Fails so many times, then says how often it was asked."""

    def __init__(self, failures: int) -> None:
        self.left = failures
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise ConnectionError(str(self.calls))
        return self.calls


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What would have been waited; the clock goes on by it."""
    waited: list[float] = []
    monkeypatch.setattr(retrying.time, "sleep", waited.append)
    monkeypatch.setattr(retrying.time, "monotonic", lambda: sum(waited))
    return waited


def test_what_works_at_last_is_returned_and_the_attempts_are_counted(waits: list[float]) -> None:
    before = count_retries()
    assert retry(Flaky(3), lambda error: 300.0) == 4
    assert (len(waits), count_retries() - before) == (3, 3)


def test_waits_double_and_are_shortened_at_random(waits: list[float]) -> None:
    retry(Flaky(10), lambda error: 300.0)
    longest = [min(20.0, 0.1 * 2**number) for number in range(10)]
    assert all(0.5 * most <= wait <= most for wait, most in zip(waits, longest, strict=True))
    assert len({wait / most for wait, most in zip(waits, longest, strict=True)}) == 10


def test_an_error_that_does_not_pass_is_raised_at_once(waits: list[float]) -> None:
    flaky = Flaky(1)
    with pytest.raises(ConnectionError):
        retry(flaky, lambda error: 0.0)
    assert (flaky.calls, waits) == (1, [])


def test_patience_ends_and_the_last_error_is_raised(waits: list[float]) -> None:
    with pytest.raises(ConnectionError, match=r"^\d+$"):
        retry(Flaky(10**6), lambda error: 60.0)
    assert 30.0 < sum(waits) <= 60.0
