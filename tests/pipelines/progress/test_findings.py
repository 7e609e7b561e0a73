"""Lengths and reasons of captions: counted whole, kept small."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipelines.progress.findings import BARS, MOST_REASONS, MOST_ROWS, OTHERS, Findings, bar_width, find_reasons


@given(st.lists(st.integers(0, 5000)), st.integers(1, 1024))
def test_every_tokenized_caption_is_in_one_bar_and_cut_ones_are_beyond(lengths: list[int], max_length: int) -> None:
    findings = Findings()
    findings.count_lengths(lengths, max_length)
    width = bar_width(max_length)
    assert sum(findings.lengths.values()) == sum(length > 0 for length in lengths)
    assert all(0 <= bar <= 2 * BARS for bar in findings.lengths)
    whole = sum(count for bar, count in findings.lengths.items() if (bar + 1) * width <= max_length)
    assert whole == sum(0 < length <= max_length // width * width for length in lengths)


def test_a_caption_of_exactly_the_most_tokens_is_not_beyond_the_cut() -> None:
    findings = Findings()
    findings.count_lengths([512, 513], 512)
    assert findings.lengths == {31: 1, 32: 1}


def test_reasons_are_counted_and_their_first_rows_kept() -> None:
    findings = Findings()
    find_reasons(findings, "a.parquet", [(row, 0) for row in range(10)], ["null caption"] * 9 + [None])
    assert findings.reasons["null caption"].count == 9
    assert findings.reasons["null caption"].rows == [("a.parquet", row, 0) for row in range(MOST_ROWS)]


def test_reasons_without_number_become_one() -> None:
    findings, more = Findings(), Findings()
    for place in range(MOST_REASONS + 5):
        more.add_reason(f"reason {place}", 2, [("a", place, 0)])
    findings.add(more)
    findings.add(more)
    assert len(findings.reasons) == MOST_REASONS + 1
    assert findings.reasons[OTHERS].count == 2 * 2 * 5
    assert sum(reason.count for reason in findings.reasons.values()) == 2 * 2 * (MOST_REASONS + 5)
