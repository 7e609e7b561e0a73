"""What people have reads an output as it is: the same rows, the same columns, in the same order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from t5enc.storage import PREFIX

Read = Callable[[Path], Sequence[str]]
COLUMNS = ["caption", *(f"{PREFIX}{name}" for name in ("source", "row", "caption_index", "bytes", "shape", "dtype"))]
COLUMNS += [f"{PREFIX}{name}" for name in ("num_tokens", "truncated", "error")]


def read_dataset(output: Path) -> Sequence[str]:
    return take(pyarrow.dataset.dataset(output / "data").to_table())


def read_dataset_by_partitions(output: Path) -> Sequence[str]:
    return take(pyarrow.dataset.dataset(output / "data", partitioning="hive").to_table())


def read_table(output: Path) -> Sequence[str]:
    return take(pq.read_table(output / "data"))


def read_pandas(output: Path) -> Sequence[str]:
    import pandas

    return take(pandas.read_parquet(output / "data"))


def read_polars(output: Path) -> Sequence[str]:
    import polars

    return take(polars.read_parquet(output / "data"))


def read_polars_lazily(output: Path) -> Sequence[str]:
    import polars

    return take(polars.scan_parquet(output / "data").collect())


def read_polars_glob(output: Path) -> Sequence[str]:
    import polars

    return take(polars.read_parquet(f"{output}/data/**/*.parquet"))


def read_polars_hive(output: Path) -> Sequence[str]:
    import polars

    return take(polars.read_parquet(output / "data", hive_partitioning=True))


def read_duckdb(output: Path) -> Sequence[str]:
    import duckdb

    return take(duckdb.sql(f"select * from '{output}/data/**/*.parquet'").to_arrow_table())


def read_duckdb_hive(output: Path) -> Sequence[str]:
    import duckdb

    query = f"select * from read_parquet('{output}/data/**/*.parquet', hive_partitioning = true)"
    return take(duckdb.sql(query).to_arrow_table())


def read_datasets_folder(output: Path) -> Sequence[str]:
    return load(str(output / "data"))


def read_datasets_root(output: Path) -> Sequence[str]:
    return load(str(output))


def read_datasets_by_name(output: Path) -> Sequence[str]:
    return load("parquet", data_dir=str(output / "data"))


def read_datasets_streaming(output: Path) -> Sequence[str]:
    assert load(str(output / "data"), streaming=True) == load(str(output), streaming=True)
    return load(str(output), streaming=True)


def load(path: str, **options: object) -> Sequence[str]:
    import datasets

    (split,) = datasets.load_dataset(path, **options).values()
    assert split.column_names == COLUMNS
    return [row["caption"] for row in split]


def walk(output: Path) -> Iterator[str]:
    """As FastVideo does: every *.parquet below, the paths sorted as texts, a file after the other."""
    found = [os.path.join(where, file) for where, _, files in os.walk(output) for file in files]
    for path in sorted(path for path in found if path.endswith(".parquet")):
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            yield from take(file.read_row_group(group))


def walk_part_by_part(output: Path) -> Iterator[str]:
    """Folder by folder, what lies in each sorted by name."""
    for path in sorted((output / "data").rglob("*.parquet")):
        yield from take(pq.ParquetFile(path).read())


READERS: dict[str, list[Callable[[Path], Sequence[str] | Iterator[str]]]] = {
    "pyarrow": [read_dataset, read_dataset_by_partitions, read_table, walk, walk_part_by_part],
    "pandas": [read_pandas],
    "polars": [read_polars, read_polars_lazily, read_polars_glob, read_polars_hive],
    "duckdb": [read_duckdb, read_duckdb_hive],
    "datasets": [read_datasets_folder, read_datasets_root, read_datasets_by_name, read_datasets_streaming],
}
CASES = [
    pytest.param(read, id=f"{library}-{version(library)}-{read.__name__}")
    for library, reads in READERS.items()
    for read in reads
]


def take(table: object) -> Sequence[str]:
    """The captions of a table, whose columns are ours and no others."""
    names = getattr(table, "column_names", None) or list(table.columns)  # type: ignore[attr-defined]
    assert list(names) == COLUMNS
    column = table["caption"]  # type: ignore[index]
    return list(column.to_pylist() if hasattr(column, "to_pylist") else column)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` copies goes away with the test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)


@pytest.mark.parametrize("read", CASES)
def test_every_reader_sees_the_same_rows_in_the_same_order(read: Read, output: Path, captions: list[str]) -> None:
    assert list(read(output)) == captions


def test_every_shard_has_the_same_schema(output: Path) -> None:
    schemas = [pq.read_schema(path) for path in (output / "data").rglob("*.parquet")]
    assert all(schema.equals(schemas[0]) for schema in schemas)
    assert schemas[0].names == COLUMNS


def test_nothing_but_shards_is_called_parquet_and_no_folder_is(output: Path) -> None:
    found = [path for path in output.rglob("*") if path.name.endswith(".parquet")]
    assert len(found) == len(list((output / "data").rglob("0*-*.parquet")))
    assert all(path.is_file() for path in found)
    assert {path.name for path in output.iterdir()} == {
        *("README.md", "_SUCCESS", "_t5enc", "data", "report.html", "report.json")
    }
