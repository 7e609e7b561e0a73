"""Jobs of every codec: what is stored is read by t5enc and by others, goes on after a kill, and says what it cost."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import torch

from pipelines import EncodeJob, EncodeReport, encode_parquet
from pipelines.commands.fsck import check_output
from pipelines.job import FrozenJob
from pipelines.stores.store import open_store
from t5enc import TextEncoder, load_embeddings
from t5enc.checkpoint.builtin import sample_captions
from t5enc.errors import JobMismatchError, T5encError
from t5enc.storage import STORAGE_DTYPES, find_codec
from t5enc.storage.codecs.error import measure_errors
from t5enc.storage.layout import CARD, JOB, PAGE, REPORT
from tests.pipelines.conftest import WriteCaptions

pytestmark = pytest.mark.usefixtures("in_process")
CAPTIONS = [*sample_captions()[:40], "", None, "a red fox"]


def encode(inputs: Path, output: Path, **options: object) -> EncodeReport:
    usual = {"inputs": [str(inputs)], "output": str(output), "model": "builtin:tiny", "rows_per_shard": 16}
    return encode_parquet(EncodeJob.from_mapping(usual | options))


@pytest.mark.parametrize("storage", STORAGE_DTYPES)
def test_an_output_of_every_codec_is_whole_and_read_by_all(
    storage: str, write_captions: WriteCaptions, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    report = encode(write_captions(CAPTIONS), output, storage_dtype=storage)
    assert check_output(open_store(str(output)), deep=True) == []
    _, embeddings = load_embeddings(output)
    rows = pyarrow.dataset.dataset(output / "data").to_table()
    assert rows["caption"].to_pylist() == CAPTIONS
    assert rows["text_embedding_num_tokens"].to_pylist() == embeddings.lengths.tolist()
    assert (embeddings.lengths[40], embeddings.lengths[41]) == (1, 0), "an empty caption has its end token"
    if find_codec(storage).token_bytes(1) is None:
        sizes = [len(value or b"") for value in rows["text_embedding_bytes"].to_pylist()]
        assert rows["text_embedding_num_bytes"].to_pylist() == sizes
    exact = TextEncoder.from_pretrained("builtin:tiny").encode([caption or "" for caption in CAPTIONS])
    kept = torch.cat([exact[place] for place in range(len(CAPTIONS)) if CAPTIONS[place] is not None])
    errors = (embeddings.values.double() - kept).norm(dim=1) / kept.norm(dim=1)
    assert float(errors.max()) <= 1.05 * measure_errors(kept, storage).max() + 1e-5
    assert report.storage_error.quantile(0.5) == pytest.approx(float(errors.median()), rel=0.1, abs=1e-9)
    decode = re.findall(r"```python\n(.*?)```", (output / CARD).read_text(), re.S)[0]
    names: dict[str, Any] = {}
    exec(decode, names)
    for row, expected in zip(rows.to_pylist(), embeddings, strict=True):
        found = names["decode"](row)
        assert (found is None) == (row["caption"] is None)
        if found is not None:
            np.testing.assert_array_equal(found.astype(np.float32), expected.float().numpy())


def test_int8_is_stored_in_groups(write_captions: WriteCaptions, tmp_path: Path) -> None:
    inputs, output = write_captions(CAPTIONS), tmp_path / "out"
    encode(inputs, output, storage_dtype="int8")
    assert json.loads((output / JOB).read_text())["identity"]["storage_dtype"] == "int8g32"
    assert encode(inputs, output, storage_dtype="int8g32").progress.counts.captions == 0, "the same job"


def begin_old(inputs: Path, output: Path) -> None:
    """An output as release 0.1 left it, half done: int8 with a scale a token."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("t5enc.storage.codecs.table.ALIASES", {})
        encode(inputs, output, storage_dtype="int8")
    last = max((output / "data").rglob("*.parquet"))
    last.unlink()
    for name in ("_SUCCESS", "_t5enc/manifest"):
        (output / name).unlink()


def test_a_half_done_output_of_the_old_int8_goes_on_in_it(write_captions: WriteCaptions, tmp_path: Path) -> None:
    inputs, output = write_captions(CAPTIONS), tmp_path / "out"
    begin_old(inputs, output)
    with pytest.raises(JobMismatchError, match=r"storage_dtype.*int8.*int8g32"):
        encode(inputs, output, storage_dtype="int8g32")
    encode(inputs, output, storage_dtype="int8")
    rows = pyarrow.dataset.dataset(output / "data").to_table()
    assert set(rows["text_embedding_dtype"].to_pylist()) == {"int8"}
    assert rows["caption"].to_pylist() == CAPTIONS
    assert len(load_embeddings(output)[1]) == len(CAPTIONS)
    encode(inputs, output, storage_dtype="int8", overwrite=True)
    assert FrozenJob.from_json((output / JOB).read_bytes()).storage_dtype == "int8g32"


def test_a_report_says_what_storing_has_cost_in_all_runs(write_captions: WriteCaptions, tmp_path: Path) -> None:
    inputs, output = write_captions(CAPTIONS), tmp_path / "out"
    first = encode(inputs, output, storage_dtype="fp8")
    told = json.loads((output / REPORT).read_text())["storage_error"]
    assert 0.01 < told["median"] < told["p99"] <= told["worst"] < 0.1
    assert told["tokens"] == first.storage_error.tokens
    assert f"stored as fp8: off by {100 * told['median']:.3g} % (median)" in str(first)
    assert "Stored as fp8: a token changes by" in (output / PAGE).read_text()
    max((output / "data").rglob("*.parquet")).unlink()
    for name in ("_SUCCESS", "_t5enc/manifest"):
        (output / name).unlink()
    second = encode(inputs, output, storage_dtype="fp8")
    assert second.progress.counts.captions < first.progress.counts.captions
    sampled = second.details.findings.storage.tokens
    assert 0 < sampled < first.storage_error.tokens
    assert second.storage_error.tokens == first.storage_error.tokens + sampled


def test_another_run_samples_the_same(write_captions: WriteCaptions, tmp_path: Path) -> None:
    inputs = write_captions(CAPTIONS)
    errors = [encode(inputs, tmp_path / name, storage_dtype="int8").storage_error for name in ("a", "b")]
    assert errors[0] == errors[1]
    assert encode(inputs, tmp_path / "c", storage_dtype="float32").storage_error.worst == 0.0


def test_a_number_beyond_every_scale_ends_the_job_in_words(
    write_captions: WriteCaptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t5enc.storage.codecs.groups.LARGEST", 1e-9)
    with pytest.raises(T5encError, match="storage_dtype: int8g32 expects finite numbers"):
        encode(write_captions(CAPTIONS), tmp_path / "out", storage_dtype="int8")


def test_shards_of_values_that_differ_in_size_have_one_column_more(
    write_captions: WriteCaptions, tmp_path: Path
) -> None:
    inputs = write_captions(CAPTIONS)
    for storage in ("float16", "fp16z"):
        encode(inputs, tmp_path / storage, storage_dtype=storage)
    plain, packed = (
        pq.read_schema(next((tmp_path / storage / "data").rglob("*.parquet"))) for storage in ("float16", "fp16z")
    )
    assert [name for name in packed.names if name not in plain.names] == ["text_embedding_num_bytes"]
    assert packed.names.index("text_embedding_num_bytes") == packed.names.index("text_embedding_num_tokens") + 1
    assert packed.field("text_embedding_num_bytes").equals(pa.field("text_embedding_num_bytes", pa.int64(), False))
    same = [load_embeddings(tmp_path / storage)[1].values for storage in ("float16", "fp16z")]
    assert torch.equal(same[0].view(torch.int16), same[1].view(torch.int16))
