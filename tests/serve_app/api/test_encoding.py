"""A batch through one model: how its rows become one vector a text."""

from __future__ import annotations

import pytest
import torch

from serve_app.api.encoding import Encoded, pool_texts
from serve_app.served.notes import Timings
from t5enc.pooling import Pooler


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pooling_is_the_mean_of_unit_length(dtype: torch.dtype) -> None:
    hidden = torch.randn(5, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    encoded = make_encoded(hidden, hidden[:1])
    mean = torch.stack([hidden.double().mean(0), hidden[0].double()])
    torch.testing.assert_close(pool_texts(Pooler(), encoded, normalize=False), mean.float())
    torch.testing.assert_close(pool_texts(Pooler(), encoded), (mean / mean.norm(dim=1, keepdim=True)).float())
    assert pool_texts(Pooler(), encoded).dtype == torch.float32


def make_encoded(*hidden: torch.Tensor) -> Encoded:
    lengths = [len(text) for text in hidden]
    timings = Timings(lengths=lengths, seconds_tokenizing=0, seconds_queued=0, seconds_computing=0)
    truncated = [False] * len(hidden)
    return Encoded(hidden=list(hidden), truncated=truncated, characters=0, timings=timings, seconds=0, device="cpu")
