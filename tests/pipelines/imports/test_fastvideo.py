"""FastVideo's Parquet becomes an output, and that the same Parquet again."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipelines.commands.fsck import check_output
from pipelines.imports.importing import import_cache
from pipelines.imports.readers import open_reader
from pipelines.stores.store import open_store
from t5enc import load_embeddings
from t5enc.trainers import export_embeddings
from tests.t5enc.trainers.outputs import Written, write_output

CAPTIONS = [f"caption {number * number}" for number in range(20)]


@pytest.fixture
def made(tmp_path: Path) -> Written:
    return write_output(tmp_path / "out", CAPTIONS, fields={"clean": "none"}, failed=[4])


@pytest.mark.parametrize("options", [{}, {"since_1843": "true"}])
def test_rows_captions_and_ids_come_back(tmp_path: Path, made: Written, options: dict[str, str]) -> None:
    export_embeddings("fastvideo", made.folder, tmp_path / "cache", options=options)
    done = import_cache(open_reader("fastvideo"), tmp_path / "cache", str(tmp_path / "in"))
    assert (done.rows, done.errors, dict(done.left_out)) == (19, 0, {})
    table, embeddings = load_embeddings(tmp_path / "in")
    kept = [number for number in range(20) if number != 4]
    assert table["caption"].to_pylist() == [CAPTIONS[number] for number in kept]
    assert table["stem"].to_pylist() == [f"text_{number}" for number in kept]
    for rows, number in zip(embeddings, kept, strict=True):
        assert torch.equal(rows, made.embeddings[number].to(rows.dtype))
    assert embeddings.values.dtype == (torch.bfloat16 if options else torch.float32)
    assert check_output(open_store(str(tmp_path / "in")), deep=True) == []


def read_files(folder: Path) -> list[dict[str, object]]:
    """All rows of a folder but their ids."""
    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    rows: list[dict[str, object]] = pa.concat_tables(tables).drop_columns("id").to_pylist()
    return rows


def test_the_same_rows_are_exported_again(tmp_path: Path, made: Written) -> None:
    export_embeddings("fastvideo", made.folder, tmp_path / "cache")
    import_cache(open_reader("fastvideo"), tmp_path / "cache", str(tmp_path / "in"))
    export_embeddings("fastvideo", tmp_path / "in", tmp_path / "again", stem_column="stem")
    assert read_files(tmp_path / "again") == read_files(tmp_path / "cache")


def test_numbers_of_before_the_change_are_float32_whatever_is_said_of_them(tmp_path: Path) -> None:
    rows = torch.randn(3, 8)
    data = pa.array([rows.numpy().tobytes()], pa.binary())
    columns = {"id": ["a"], "caption": ["a fox"], "text_embedding_bytes": data, "text_embedding_dtype": ["bfloat16"]}
    columns["text_embedding_shape"] = [[1, 3, 8]]
    (tmp_path / "cache").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "cache" / "a.parquet")
    reader = open_reader("fastvideo", {"trusts_dtype": "false"})
    import_cache(reader, tmp_path / "cache", str(tmp_path / "in"))
    _, embeddings = load_embeddings(tmp_path / "in")
    assert torch.equal(embeddings[0], rows)
    with pytest.raises(ValueError, match=r"expected numbers of \[1, 3, 8\], got 48"):
        open_reader("fastvideo").read(tmp_path / "cache" / "a.parquet")


def test_what_is_no_cache_is_left_out_and_rows_without_numbers_have_a_reason(tmp_path: Path, made: Written) -> None:
    cache = tmp_path / "cache"
    export_embeddings("fastvideo", made.folder, cache)
    pq.write_table(pa.table({"x": [1]}), cache / "other.parquet")
    (cache / "torn.parquet").write_bytes(b"PAR1")
    table = pq.read_table(cache / "shard-000000.parquet")
    at = table.column_names.index("text_embedding_bytes")
    empty = pa.array([None, *table["text_embedding_bytes"].to_pylist()[1:]], pa.binary())
    texts = pa.array([*table["caption"].to_pylist()[:-1], None], pa.string())
    table = table.set_column(at, "text_embedding_bytes", empty)
    pq.write_table(
        table.set_column(table.column_names.index("caption"), "caption", texts), cache / "shard-000000.parquet"
    )
    done = import_cache(open_reader("fastvideo"), cache, str(tmp_path / "in"))
    assert (done.rows, done.errors) == (18, 1)
    assert dict(done.left_out) == {"no Parquet with captions and embeddings": 2, "rows without a caption": 1}
    errors = load_embeddings(tmp_path / "in")[0]["text_embedding_error"].to_pylist()
    assert errors[0] == "the cache's file cannot be read: expected an embedding, got none"
