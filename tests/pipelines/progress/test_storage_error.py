"""Errors of a sample as few numbers: near their quantiles, however they are added up, and through the report."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.progress.report import EncodeReport, read_report, read_storage_error
from pipelines.progress.storage_error import BARS, StorageError, add_errors, show_error
from t5enc.storage.layout import REPORT
from tests.pipelines.commit.memory_store import MemoryStore

errors = st.lists(st.one_of(st.just(0.0), st.floats(1e-9, 2.0)), min_size=1, max_size=50)


def of(*numbers: float) -> StorageError:
    found = StorageError()
    found.count(numbers)
    return found


@given(errors, st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_right_within_a_bar(numbers: list[float], share: float) -> None:
    exact = sorted(numbers)[math.ceil(share * len(numbers)) - 1]
    found = of(*numbers).quantile(share)
    assert exact <= found * (1 + 1e-12)
    assert found <= exact * 2 ** (1 / BARS) * (1 + 1e-12)
    assert found <= max(numbers)


@given(errors, errors)
def test_what_is_added_is_what_was_sampled_together(one: list[float], other: list[float]) -> None:
    assert add_errors(of(*one), of(*other)) == of(*one, *other)
    assert add_errors() == StorageError()


@given(errors)
def test_it_comes_back_from_json(numbers: list[float]) -> None:
    found = of(*numbers)
    assert StorageError.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_many_tokens_are_few_numbers() -> None:
    numbers = 0.005 * np.exp(0.2 * np.random.default_rng(0).standard_normal(100_000))
    assert len(of(*numbers).bars) < 100


def test_it_is_told_in_words() -> None:
    assert str(of(0.0, 0.0)) == "nothing lost, of 2 tokens sampled"
    assert str(of(*[0.005] * 99, 0.01)) == "off by 0.507 % (median), 0.507 % (p99), 1 % (worst) of 100 tokens sampled"
    assert show_error(0.0986) == "9.86 %"


@pytest.mark.parametrize("kept", [b"", b"{}", b"[]", b'{"job": {"fingerprint": "f"}, "storage_error": {"bars": 3}}'])
def test_a_report_that_tells_nothing_is_passed_over(kept: bytes) -> None:
    store = MemoryStore()
    store.replace(REPORT, kept)
    for there in (store, MemoryStore()):
        assert read_storage_error(read_report(there, "f")) == StorageError()


def test_a_later_run_of_the_job_goes_on_from_the_report() -> None:
    report = EncodeReport(output="out", totals={}, job={"fingerprint": "f"}, storage_error=of(0.1, 0.2))
    store = MemoryStore()
    store.replace(REPORT, report.to_json().encode())
    assert read_storage_error(read_report(store, "f")) == of(0.1, 0.2)
    assert read_storage_error(read_report(store, "g")) == StorageError()


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_numbers_that_are_none_when_they_are_read_are_the_worst_and_not_exact(lost: float) -> None:
    found = of(0.0, 0.5, lost)
    assert (found.quantile(0.3), found.quantile(0.5), found.quantile(0.99), found.worst) == (0, 0.5, math.inf, math.inf)
    assert show_error(found.worst) == "inf %"
