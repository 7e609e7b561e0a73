"""A footer tells of all rows of its own shard, and of no other file's."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5enc.storage import STORAGE_DTYPES
from t5enc.storage.row_index import COPIED, MISSING, ROWS_KEY, copy_rows, unpack_rows
from tests.t5enc.dataset.outputs import Shard, write_output


def write(folder: Path, lengths: Sequence[int | None], storage: str = "float16", group_bytes: int = 200) -> Path:
    return folder / write_output(folder, [Shard(lengths=lengths)], storage=storage, group_bytes=group_bytes)[0]


@given(
    lengths=st.lists(st.one_of(st.none(), st.integers(0, 20)), min_size=1, max_size=15),
    storage=st.sampled_from(STORAGE_DTYPES),
    group_bytes=st.sampled_from([1, 200, 8 << 20]),
)
def test_a_footer_says_what_the_columns_say(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int | None], storage: str, group_bytes: int
) -> None:
    path = write(tmp_path_factory.mktemp("out"), lengths, storage, group_bytes)
    found, table = unpack_rows(pq.read_metadata(path)), pq.read_table(path)
    assert found is not None
    assert found.replace_schema_metadata(None).equals(copy_rows(table))
    assert found.select(COPIED).to_pylist() == table.select(COPIED).to_pylist()
    assert found[MISSING].to_pylist() == [length is None for length in lengths]


@pytest.mark.parametrize("order", [[1, 0, 2], [0, 1], [2, 1, 0]])
def test_rows_that_another_tool_wrote_again_are_not_those_of_the_footer(tmp_path: Path, order: list[int]) -> None:
    path = write(tmp_path, [1, 5, 9])
    footer = pq.read_metadata(path).metadata[ROWS_KEY]
    table = pq.read_table(path).take(order)
    pq.write_table(table.replace_schema_metadata((table.schema.metadata or {}) | {ROWS_KEY: footer}), path)
    assert ROWS_KEY in pq.read_metadata(path).metadata
    assert unpack_rows(pq.read_metadata(path)) is None


@pytest.mark.parametrize("content", [b"", b"!", b"AAAA", b"QVJST1cx"])
def test_a_footer_that_is_damaged_says_nothing(tmp_path: Path, content: bytes) -> None:
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata({ROWS_KEY: content}), tmp_path / "x")
    assert unpack_rows(pq.read_metadata(tmp_path / "x")) is None


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_footer_says_anything_else_when_a_bit_of_it_has_turned(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("out")
    metadata = pq.read_metadata(write(folder, [1, None, 5, 9]))
    packed = bytearray(base64.b64decode(metadata.metadata[ROWS_KEY]))
    packed[place % len(packed)] ^= 1 << bit
    damaged = SimpleNamespace(metadata={ROWS_KEY: base64.b64encode(packed)})
    assert unpack_rows(damaged) is None


def test_a_shard_of_no_rows_has_none_to_tell_of(tmp_path: Path) -> None:
    assert unpack_rows(pq.read_metadata(write(tmp_path, []))) is None
