"""Plans: figures for the whole input from a sample, and what they advise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipelines.commands.codecs import compare_codecs
from pipelines.commands.estimate import Estimate, Prices, advise, estimate, print_estimate
from pipelines.job import EncodeJob
from pipelines.plan.plan import Units
from pipelines.run.resolved_job import MOST_CAPTIONS, SHARD_BYTES, flops_per_token, resolve_job
from t5enc.checkpoint.builtin import sample_captions
from t5enc.config import EncoderConfig
from t5enc.errors import ExitCode
from t5enc.storage import STORAGE_DTYPES
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


def test_shards_are_those_that_a_run_cuts(tmp_path: Path) -> None:
    """Forty captions a row, beside a page that each of them keeps."""
    rows, path = 500, tmp_path / "a.parquet"
    table = pa.table({"caption": [["a red bird"] * 40] * rows, "page": [bytes(20_000).decode()] * rows})
    pq.write_table(table, path, use_dictionary=False)
    job = EncodeJob(inputs=[str(path)], output="-", model="builtin:tiny")
    resolved = resolve_job(job, torch.device("cpu"))
    found, units = estimate(resolved), Units.of(resolved.files, resolved.frozen)
    assert (found.captions, found.shards) == (rows * 40, len(units))
    assert 40 * max(unit.num_rows for unit in units.values()) <= MOST_CAPTIONS
    assert 40 * 20_000 * max(unit.num_rows for unit in units.values()) <= SHARD_BYTES
    exact = resolve_job(replace(job, rows_per_shard=400), torch.device("cpu"))
    assert estimate(exact).shards == 2


def make_estimate(*, gigabytes: float, hours: float) -> Estimate:
    size = round(gigabytes * 1e9)
    names = ("files", "rows", "captions", "tokens", "kept", "truncated", "longest", "shards", "read", "beside")
    names += ("embedding_bytes",)
    counts = dict.fromkeys(names, 1)
    return Estimate(**counts, bytes=size, flops_per_token=1.0, device_hours=hours)


def test_more_devices_take_less_time_and_cost_the_same() -> None:
    found = make_estimate(gigabytes=1, hours=8)
    assert found.wall_hours(PRICES) == 2
    assert found.encode_cost(PRICES) == 20


def test_cheap_storage_is_advised_and_dear_storage_is_not() -> None:
    assert advise(make_estimate(gigabytes=10, hours=8), PRICES).startswith("store")
    assert advise(make_estimate(gigabytes=958_000, hours=591), PRICES).startswith("encode on the fly")
    assert advise(make_estimate(gigabytes=0, hours=0), PRICES) == "nothing to encode"


def test_a_plan_says_which_inputs_a_run_will_not_read(
    write_captions: WriteCaptions, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = write_captions()
    job = EncodeJob(inputs=[str(inputs)], output="-", model="builtin:tiny")
    assert print_estimate(job, PRICES, None) == ExitCode.DONE
    (inputs / "b.parquet").write_bytes(b"")
    (inputs / "c.parquet").symlink_to("nowhere")
    assert print_estimate(job, PRICES, None) == ExitCode.INPUTS_UNREADABLE
    said = capsys.readouterr().out
    assert "not read: b.parquet: expected a Parquet file, got an empty file" in said
    assert "not read: c.parquet: expected a file or a folder, got a link to nowhere, where there is nothing" in said


def test_a_plan_compares_the_ways_to_store_by_a_few_captions(
    write_captions: WriteCaptions, capsys: pytest.CaptureFixture[str]
) -> None:
    resolved = resolve_job(
        EncodeJob(inputs=[str(write_captions())], output="-", model="builtin:tiny"), torch.device("cpu")
    )
    assert (len(resolved.sample.texts), resolved.sample.texts[0]) == (31, sample_captions()[0])
    found = estimate(resolved)
    table = compare_codecs(resolved, tokens=found.kept, beside=found.bytes - found.embedding_bytes)
    columns = {str(column.header): list(column.cells) for column in table.columns}
    assert columns["stored as"] == list(STORAGE_DTYPES)
    plain = dict(zip(STORAGE_DTYPES, columns["bits a number"], strict=True))
    assert [plain[name] for name in ("float16", "float32", "int8g32", "fp8")] == ["16", "32", "8.5", "8"]
    assert float(plain["bf16z"]) < 12 < float(plain["fp16z"]) < 14
    errors = dict(zip(STORAGE_DTYPES, columns["median error"], strict=True))
    assert errors["float32"] == "0 %"
    assert errors["fp16z"] == errors["float16"]
    job = EncodeJob(inputs=[str(write_captions())], output="-", model="builtin:tiny")
    assert print_estimate(job, PRICES, None, codecs=True) == ExitCode.DONE
    assert "31 captions of the sample" in " ".join(capsys.readouterr().out.split())


def test_an_input_without_captions_compares_nothing(write_captions: WriteCaptions) -> None:
    job = EncodeJob(inputs=[str(write_captions([None]))], output="-", model="builtin:tiny")
    table = compare_codecs(resolve_job(job, torch.device("cpu")), tokens=0, beside=0)
    assert table.row_count == len(STORAGE_DTYPES)
