"""The parity matrix holds; `python -m tests.parity` prints it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.families import FAMILIES
from tests.parity import DTYPES, Figure, find_losses, measure

SEEDS = 2
# 16 bit for a bias of all layers without gate, and for one of each layer with a gate: the others are one or the other.
QUICK = [(family, "float32") for family in FAMILIES]
QUICK += [(family, dtype) for family in ("t5_v1_0", "umt5") for dtype in DTYPES[1:]]


@pytest.mark.parametrize(("family", "dtype"), QUICK)
def test_cells_of_one_draw_with_sdpa(family: str, dtype: str) -> None:
    figures = measure(family, dtype, 1, ["sdpa"])
    assert len({figure.cell for figure in figures}) == 5
    assert find_losses(figures) == []


@pytest.mark.long
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_cell_with_sdpa(family: str, dtype: str) -> None:
    figures = measure(family, dtype, SEEDS, ["sdpa"])
    assert len({figure.cell for figure in figures}) == 5
    assert find_losses(figures) == []


@pytest.mark.long
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_cell_with_compiled_flex(family: str, dtype: str, compiler: None) -> None:
    figures = measure(family, dtype, SEEDS, ["flex_attention"])
    assert len({figure.cell for figure in figures}) == 5
    assert find_losses(figures) == []


def test_the_matrix_can_tell_a_loss() -> None:
    own = Figure(
        family="t5_v1_1",
        dtype="float32",
        mask="none",
        attention="sdpa",
        place="real",
        candidate="t5enc",
        relative=3e-5,
        quantiles=(1.0,) * 7,
    )
    other = replace(own, candidate="transformers", quantiles=(2.0, 2.0, 1.0, 2.0, 2.0, 2.0, 0.5))
    assert find_losses([own, other]) == [
        "t5_v1_1 float32 none sdpa real: relative distance 3.0e-05, expected less than 2e-05",
        "t5_v1_1 float32 none sdpa real: not nearer than transformers in quantiles [0.9, 0.9999]",
    ]
