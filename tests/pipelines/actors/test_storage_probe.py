"""A sample of a unit's tokens: bounded, drawn again alike, from all of its streams, and of what is kept alone."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.actors.storage_probe import TOKENS, StorageProbe
from pipelines.plan.units import Unit

UNIT = Unit(source="a.parquet", first_row=0, num_rows=9, id="00000000000000ff")


@given(st.lists(st.integers(0, 3000), max_size=8), st.integers(0, 99))
def test_a_unit_gives_so_many_tokens_at_most_and_from_every_stream(lengths: list[int], seed: int) -> None:
    probe = StorageProbe(UNIT, sum(lengths))
    for length in lengths:
        probe.take(torch.ones(length, 4), np.arange(length))
    found = probe.measure("float32").tokens
    assert found <= TOKENS
    assert found >= min(TOKENS, sum(length > 0 for length in lengths))


def test_what_is_not_kept_is_not_drawn() -> None:
    hidden = torch.full((100, 4), torch.nan)
    hidden[10:20] = 1 / 3
    probe = StorageProbe(UNIT, 10)
    probe.take(hidden, np.arange(10, 20))
    assert 0 < probe.measure("float16").worst < 1e-3


def test_another_run_draws_the_same() -> None:
    hidden, probes = torch.randn(500, 32), [StorageProbe(UNIT, 500) for _ in range(2)]
    for probe in probes:
        probe.take(hidden, np.arange(500))
    assert probes[0].measure("fp8") == probes[1].measure("fp8")
    assert probes[0].measure("float32").worst == 0.0
