"""An index of a shard is small, and says of foreign shards what can be read by byte range."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from t5enc.errors import OutputError
from t5enc.shards.files import LocalShard
from t5enc.shards.index import ShardIndex, read_index
from t5enc.storage import NOT_SHARED
from tests.t5enc.dataset.outputs import Shard, rewrite, write_output
from tests.t5enc.dataset.referring.making import refer


def index(path: Path, storage: str = "float16", dim: int = 4, *, skips_missing: bool = True) -> ShardIndex:
    return read_index(LocalShard(str(path)), storage=storage, dim=dim, skips_missing=skips_missing)


def write(folder: Path, shard: Shard, **options: Any) -> Path:
    return folder / write_output(folder, [shard], **options)[0]


def test_eight_bytes_a_row_are_enough_where_each_row_has_one_caption(tmp_path: Path) -> None:
    path = write(tmp_path, Shard(lengths=[1] * 2000, first_row=70), group_bytes=8 << 20)
    found = index(path)
    assert found.nbytes <= 8 * 2000 + 1100
    rows, captions = found.find_keys(np.array([0, 1999]))
    assert (rows.tolist(), captions.tolist()) == ([70, 2069], [0, 0])


@pytest.mark.parametrize("skips_missing", [True, False])
def test_rows_are_counted_with_or_without_those_that_are_missing(tmp_path: Path, skips_missing: bool) -> None:
    path = write(tmp_path, Shard(lengths=[2, None, 0, 3], rows=[5, 5, 6, 6]), group_bytes=1)
    found = index(path, skips_missing=skips_missing)
    places = np.arange(len(found))
    present = [True, True, True] if skips_missing else [True, False, True, True]
    assert found.are_there(places).tolist() == present
    assert found.find_file_rows(places).tolist() == ([0, 2, 3] if skips_missing else [0, 1, 2, 3])
    assert found.find_keys(places)[1].tolist() == ([0, 0, 1] if skips_missing else [0, 1, 0, 1])
    assert found.counted_groups().tolist() == ([0, 1, 1, 2, 3] if skips_missing else [0, 1, 2, 3, 4])
    assert found.find_place(6, 1) == len(found) - 1
    assert found.find_place(5, 1) == (None if skips_missing else 1)


def test_only_pages_of_plain_bytes_are_read_by_range(tmp_path: Path) -> None:
    path = write(tmp_path, Shard(lengths=[2, 3, 4]), group_bytes=8 << 20)
    assert index(path).is_plain.tolist() == [True]
    rewrite(path, compression="none", use_dictionary=False)
    assert index(path).is_plain.tolist() == [True]
    for options in ({"compression": "zstd"}, {"compression": "none", "use_dictionary": True}):
        rewrite(path, **options)
        assert index(path).is_plain.tolist() == [False]


def test_a_shard_of_another_dtype_or_width_than_its_job_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, Shard(lengths=[2]))
    for form in ({"storage": "bfloat16"}, {"dim": 8}):
        with pytest.raises(OutputError, match=f"{path.name}: expected .* as its job has it, got float16 of 4"):
            index(path, **form)  # type: ignore[arg-type]


def test_a_shard_that_lost_its_metadata_is_as_its_job_says(tmp_path: Path) -> None:
    path = write(tmp_path, Shard(lengths=[2]))
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    assert index(path).tokens.tolist() == [2]


def test_a_column_that_another_tool_left_out_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, Shard(lengths=[2]))
    pq.write_table(pq.read_table(path).drop_columns(["text_embedding_error"]), path)
    with pytest.raises(OutputError, match="no column 'text_embedding_error'"):
        index(path)


def test_rows_of_lossless_codecs_are_found_by_their_bytes_alone(tmp_path: Path) -> None:
    path = write(tmp_path, Shard(lengths=[2]), storage="bf16z")
    pq.write_table(pq.read_table(path).drop_columns(["text_embedding_num_bytes"]), path)
    with pytest.raises(OutputError, match="expected a column 'text_embedding_num_bytes'"):
        index(path, storage="bf16z")


@pytest.mark.parametrize("skips_missing", [True, False])
@pytest.mark.parametrize("options", [None, {"compression": "none", "use_dictionary": False}])
def test_rows_that_refer_have_no_bytes_and_those_beside_them_lie_where_they_do(
    tmp_path: Path, skips_missing: bool, options: dict[str, Any] | None
) -> None:
    path = write(tmp_path, Shard(lengths=[2, None, 4, 3]), group_bytes=8 << 20)
    refer(tmp_path, lambda place: place in (0, 2))
    if options:
        rewrite(path, **options)
    found = index(path, skips_missing=skips_missing)
    places = np.arange(len(found))
    assert found.find_shared_rows(places).tolist() == [1, *([] if skips_missing else [NOT_SHARED]), 2, NOT_SHARED]
    assert found.are_there(places).tolist() == [False] * (2 if skips_missing else 3) + [True]
    assert found.tokens.tolist() == [2, *([] if skips_missing else [0]), 4, 3]
    assert found.is_plain.all()
    assert found.content_keys is not None
    assert found.content_keys.shape == (len(found), 16)
    start = int(found.find_starts(places[-1:])[0])
    assert int.from_bytes(path.read_bytes()[start : start + 4], "little") == 3 * 4 * 2
