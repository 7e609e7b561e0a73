"""What storing costs of a token, against the codec's own bytes."""

from __future__ import annotations

import pytest
import torch

from t5enc.storage import STORAGE_DTYPES
from t5enc.storage.codecs.error import measure_errors

# Of numbers as they come from a normal distribution, about: training of image models has nothing nearer.
EXPECTED = {
    **{"float32": 0.0, "float16": 2.1e-4, "fp16z": 2.1e-4, "bfloat16": 1.66e-3, "bf16z": 1.66e-3},
    **{"int8g32": 5.4e-3, "fp8": 2.65e-2},
}


@pytest.mark.parametrize("storage", STORAGE_DTYPES)
def test_numbers_of_one_size_are_off_by_what_their_bits_say(storage: str) -> None:
    tokens = torch.randn(20, 1024, generator=torch.Generator().manual_seed(0))
    assert measure_errors(tokens, storage).tolist() == pytest.approx([EXPECTED[storage]] * 20, rel=0.15)


def test_massive_channels_cost_the_old_int8_ten_times_as_much() -> None:
    tokens = torch.randn(20, 4096, generator=torch.Generator().manual_seed(0))
    tokens[:, [7, 300, 4000]] *= 100
    old, new = (measure_errors(tokens, storage).mean() for storage in ("int8", "int8g32"))
    assert old > 8 * new


def test_a_token_of_zeros_is_off_by_nothing_and_no_tokens_by_none() -> None:
    for storage in STORAGE_DTYPES:
        assert measure_errors(torch.zeros(2, 32), storage).tolist() == [0.0, 0.0]
        assert measure_errors(torch.zeros(0, 32), storage).tolist() == []
