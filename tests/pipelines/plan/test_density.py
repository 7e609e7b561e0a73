"""How dense rows are, as footers tell it: captions of lists, bytes of what is kept, row groups that differ."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.plan.density import ROWS, SMALL_BYTES, Density, Weighing, measure

LARGE = 4 * SMALL_BYTES


def density_of(table: pa.Table, *, choice: Any = "all", keep: list[str] | None = None, **options: Any) -> Any:
    sink = io.BytesIO()
    options = {"use_dictionary": False, "compression": "zstd"} | options
    pq.write_table(table, sink, **options)
    file = pq.ParquetFile(sink)
    return measure(file.metadata, file.schema_arrow, Weighing("caption", choice, keep))


def lists(counts: list[int | None], type_: pa.DataType | None = None) -> pa.Array:
    return pa.array([None if count is None else ["a bird"] * count for count in counts], type_ or pa.list_(pa.string()))


@pytest.mark.parametrize(
    "captions",
    [
        pa.array(["a", None, "b"]),
        pa.array(["a", None, "b"]).dictionary_encode(),
        pa.array([b"a", None, b"b"], pa.large_binary()),
        lists([1, 1, 1]),
        lists([None, 0, 1]),
    ],
)
@pytest.mark.parametrize("statistics", [True, False])
def test_a_caption_a_row_is_what_is_usual(captions: pa.Array, statistics: bool) -> None:
    assert density_of(pa.table({"id": [1, 2, 3], "caption": captions}), write_statistics=statistics) == ()


def test_a_file_without_rows_is_as_usual() -> None:
    assert density_of(pa.table({"caption": lists([])})) == ()


@pytest.mark.parametrize(
    "type_", [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.string(), 6), pa.list_(pa.binary())]
)
def test_captions_of_lists_are_counted(type_: pa.DataType) -> None:
    table = pa.table({"caption.x": [["z"] * 9] * 4, "caption": lists([6] * 4, type_), "y": [[1]] * 4})
    assert density_of(table) == (Density(rows=4, captions=6 * ROWS),)
    assert density_of(table, choice="first") == ()


def test_empty_lists_count_as_the_rows_that_they_become() -> None:
    assert density_of(pa.table({"caption": lists([0, None, 4])})) == (Density(rows=3, captions=2 * ROWS),)


def test_what_is_kept_counts_once_for_each_caption_and_captions_count_once() -> None:
    page = "p" * LARGE
    assert density_of(pa.table({"caption": lists([2]), "page": [page]}))[0].bytes >= 2 * LARGE
    assert LARGE <= density_of(pa.table({"caption": [[page, "b"]], "page": ["x"]}))[0].bytes < 2 * LARGE


def test_only_what_is_kept_counts() -> None:
    table = pa.table({"caption": ["a"], "image": [b"i" * LARGE], "page": ["p" * LARGE]})
    assert LARGE <= density_of(table)[0].bytes < 2 * LARGE
    assert density_of(table, keep=["caption"]) == ()
    assert density_of(table.select(["caption", "image"])) == ()
    assert density_of(table, keep=["image", "page"])[0].bytes >= 2 * LARGE


def test_a_column_with_bytes_anywhere_in_it_is_not_kept_and_does_not_count() -> None:
    page = pa.array([{"raw": b"1", "html": "p" * LARGE}])
    table = pa.table({"caption": ["a"], "page": page})
    assert density_of(table) == ()
    assert density_of(table, keep=["page"])[0].bytes >= LARGE


def test_row_groups_that_are_alike_are_one_and_others_are_not() -> None:
    table = pa.table({"caption": lists([1] * 6 + [5] * 4 + [1] * 2)})
    assert density_of(table, row_group_size=2) == (
        Density(rows=6),
        Density(rows=4, captions=5 * ROWS),
        Density(rows=2),
    )


def test_chance_makes_no_difference() -> None:
    counts = [16 + (row * 7919) % 3 for row in range(1000)]
    found = density_of(pa.table({"caption": lists(counts)}), row_group_size=10)
    assert found == (Density(rows=1000, captions=18 * ROWS),)


@pytest.mark.parametrize("schema", [pa.schema([("text", pa.string())]), pa.schema([("caption", pa.string())] * 2)])
def test_a_footer_that_is_not_as_its_schema_is_left_to_those_who_read_the_file(schema: pa.Schema) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"caption": lists([9])}), sink)
    assert measure(pq.read_metadata(sink), schema, Weighing("caption")) == ()
