"""Numbers in other dtypes: what float16 cannot hold is an error, and not infinite."""

from __future__ import annotations

import pytest
import torch

from t5enc.errors import OutputError
from t5enc.trainers.formats.cosmos import Cosmos
from t5enc.trainers.formats.musubi import Musubi
from t5enc.trainers.formats.pixart import PixArt
from t5enc.trainers.tensors import narrow
from tests.t5enc.trainers.formats.given_rows import make_caption, make_given

LARGE = torch.tensor([[1.0, -70000.0]]).bfloat16()


def test_what_float16_holds_is_rounded_and_what_it_does_not_is_an_error() -> None:
    values = torch.tensor([65504.0, 0.1])
    assert torch.equal(narrow(values, torch.float16, "row 1"), values.half())
    assert torch.equal(narrow(LARGE, torch.float32, "row 1"), LARGE.float())
    with pytest.raises(OutputError, match="row 7: expected numbers that float16 holds, got 70144"):
        narrow(LARGE, torch.float16, "row 7")


@pytest.mark.parametrize("format_", [Cosmos(), PixArt(), Musubi(dtype="float16")])
def test_formats_of_float16_name_the_row(format_: Cosmos | PixArt | Musubi) -> None:
    with pytest.raises(OutputError, match="row 3: expected numbers that float16 holds"):
        format_.make_file(make_caption("a.jpg", num_tokens=1, row=3), LARGE, make_given(dim=2))
