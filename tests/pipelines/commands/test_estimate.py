"""Plans: figures for the whole input from a sample, and what they advise."""

from __future__ import annotations

import pytest
import torch

from pipelines.commands.estimate import Estimate, Prices, advise, estimate
from pipelines.job import EncodeJob
from pipelines.run.resolved_job import flops_per_token, resolve_job
from t5enc.checkpoint.builtin import sample_captions
from t5enc.config import EncoderConfig
from tests.pipelines.conftest import WriteCaptions

XXL = EncoderConfig(
    family="t5",
    vocab_size=32128,
    model_dim=4096,
    num_layers=24,
    num_heads=64,
    head_dim=64,
    ff_dim=10240,
    activation="gelu_tanh",
    is_gated=True,
)
PRICES = Prices(hour=2.5, terabyte_month=23.0, devices=4)


def test_t5_xxl_takes_what_is_published_for_a_token() -> None:
    assert flops_per_token(XXL) == pytest.approx(4741.644e9 / 512, rel=1e-4)


def test_figures_of_a_whole_input_are_exact_where_the_sample_is_all_of_it(write_captions: WriteCaptions) -> None:
    from t5enc import TextEncoder

    inputs = write_captions()
    job = EncodeJob(inputs=[str(inputs)], output="-", model="builtin:tiny", rows_per_shard=100)
    found = estimate(resolve_job(job, torch.device("cpu")), tokens_per_second=1000)
    lengths = [len(ids) for ids in TextEncoder.from_pretrained("builtin:tiny").tokenize(sample_captions()).ids]
    assert (found.files, found.rows, found.captions, found.shards) == (4, 310, 310, 4)
    assert (found.tokens, found.longest) == (sum(lengths), max(lengths))
    assert found.bytes >= found.tokens * 64 * 2
    assert found.device_hours == pytest.approx(found.tokens / 1000 / 3600)


def make_estimate(*, gigabytes: float, hours: float) -> Estimate:
    size = round(gigabytes * 1e9)
    counts = dict.fromkeys(("files", "rows", "captions", "tokens", "kept", "truncated", "longest", "shards"), 1)
    return Estimate(**counts, bytes=size, flops_per_token=1.0, device_hours=hours)


def test_more_devices_take_less_time_and_cost_the_same() -> None:
    found = make_estimate(gigabytes=1, hours=8)
    assert found.wall_hours(PRICES) == 2
    assert found.encode_cost(PRICES) == 20


def test_cheap_storage_is_advised_and_dear_storage_is_not() -> None:
    assert advise(make_estimate(gigabytes=10, hours=8), PRICES).startswith("store")
    assert advise(make_estimate(gigabytes=958_000, hours=591), PRICES).startswith("encode on the fly")
    assert advise(make_estimate(gigabytes=0, hours=0), PRICES) == "nothing to encode"
