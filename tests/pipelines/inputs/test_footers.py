"""Footers, digests and spans, and what is said of files that are not the Parquet files listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from pipelines.inputs.footers import TAIL_BYTES, open_parquet, read_footer
from pipelines.inputs.sources import SourceFile
from t5enc.errors import SourceError

LOCAL = pafs.LocalFileSystem()
FILE = SourceFile(source="captions/a.parquet", path="a.parquet", size=0, partitions=())


def listed(path: Path, size: int | None = None) -> SourceFile:
    size = path.stat().st_size if size is None else size
    return SourceFile(source="captions/a.parquet", path=str(path), size=size, partitions=())


def write(path: Path, texts: list[str], **options: Any) -> SourceFile:
    pq.write_table(pa.table({"caption": texts}), path, **options)
    return listed(path)


def test_a_footer_says_rows_row_groups_and_schema(tmp_path: Path) -> None:
    footer = read_footer(LOCAL, write(tmp_path / "a", [f"caption {i}" for i in range(25)], row_group_size=10))
    assert (footer.num_rows, footer.row_group_rows) == (25, (10, 10, 5))
    assert footer.schema == pa.schema({"caption": pa.string()})
    assert footer == read_footer(LOCAL, listed(tmp_path / "a"))


@pytest.mark.parametrize("texts", [[], ["one"]])
def test_files_of_no_row_and_of_one_row_have_footers(tmp_path: Path, texts: list[str]) -> None:
    footer = read_footer(LOCAL, write(tmp_path / "a", texts))
    assert footer.num_rows == len(texts) == sum(footer.row_group_rows)
    assert footer.schema.names == ["caption"]


def test_a_footer_longer_than_the_first_read_is_read_whole(tmp_path: Path) -> None:
    pq.write_table(pa.table({f"column {'x' * 200} {i}": [i] for i in range(500)}), tmp_path / "wide")
    assert (tmp_path / "wide").stat().st_size > 2 * TAIL_BYTES
    assert len(read_footer(LOCAL, listed(tmp_path / "wide")).schema) == 500


def test_other_content_has_another_digest_and_the_same_content_the_same(tmp_path: Path) -> None:
    texts = [f"a red bird, number {i}" for i in range(100)]
    variants = [
        texts,
        texts[:-1],
        [*texts, "a red bird"],
        ["a blue bird", *texts[1:]],
        [*texts[:-1], "zebra"],
    ]
    digests = [read_footer(LOCAL, write(tmp_path / "a", texts)).digest for texts in variants]
    assert len(set(digests)) == len(variants)
    assert read_footer(LOCAL, write(tmp_path / "b", texts)).digest == digests[0]
    assert read_footer(LOCAL, write(tmp_path / "b", texts, row_group_size=10)).digest != digests[0]


def damaged(path: Path, data: bytes) -> SourceFile:
    path.write_bytes(data)
    return listed(path)


@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        (lambda data: data[:-8] + b"\xff\xff\xff\x7fPAR1", r"expected a footer of \d+ bytes, got a file"),
        (lambda data: data[:-40] + b"\xee" * 32 + data[-8:], "expected a Parquet footer, got a damaged one"),
        (lambda data: b"PAR1" + data[-20:], "expected a footer of .* bytes, got a file of 24"),
        (lambda data: b"PAR1" + b"\0" * 8 + b"PAR1", "expected a Parquet footer, got a damaged one"),
    ],
)
def test_a_damaged_footer_is_named(tmp_path: Path, cut: Any, expected: str) -> None:
    write(tmp_path / "good", ["a red bird"])
    file = damaged(tmp_path / "bad", cut((tmp_path / "good").read_bytes()))
    with pytest.raises(SourceError, match=rf"captions/a\.parquet: {expected}"):
        read_footer(LOCAL, file)


def test_a_file_that_changed_or_went_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a", ["a red bird"])
    with pytest.raises(SourceError, match=r"a\.parquet: changed during the run: expected 7 bytes as listed, got"):
        read_footer(LOCAL, listed(tmp_path / "a", size=7))
    (tmp_path / "a").unlink()
    with pytest.raises(SourceError, match=r"captions/a\.parquet: expected a readable file, got"):
        read_footer(LOCAL, file)


def test_an_error_of_the_reader_of_a_file_is_not_taken_for_the_files(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="disk full"),
        open_parquet(LOCAL, write(tmp_path / "a", ["a red bird"])),
    ):
        raise OSError("disk full")
