"""Prefetched items: in order, errors after what came before, and no more than one ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pipelines.actors.prefetching import prefetch
from t5enc.errors import SourceError


@pytest.mark.parametrize("count", [0, 1, 5])
def test_prefetched_items_come_in_order(count: int) -> None:
    assert list(prefetch(range(count))) == list(range(count))


def test_an_error_of_the_producer_is_raised_after_what_came_before() -> None:
    def produce() -> Iterator[int]:
        yield 1
        raise SourceError("gone")

    items = prefetch(produce())
    assert next(items) == 1
    with pytest.raises(SourceError, match="gone"):
        next(items)


def test_no_more_is_produced_than_is_asked_for_and_one_ahead() -> None:
    made: list[int] = []
    ended = threading.Event()

    def produce() -> Iterator[int]:
        try:
            for number in range(100):
                made.append(number)
                yield number
        finally:
            ended.set()

    items = prefetch(produce())
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined]
    assert ended.wait(60)
    assert len(made) <= 4
