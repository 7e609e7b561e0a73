"""Files that come to an output that is there: its schema stays, and what does not fit it is refused."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from pipelines import EncodeJob, encode_parquet
from pipelines.commit.ownership import find_frozen, freeze
from pipelines.inputs.columns.choice import Columns
from pipelines.job import FrozenJob, schema_to_text
from pipelines.run.job_columns import find_columns, identify_columns
from pipelines.stores.store import open_store
from t5enc import load_embeddings
from t5enc.errors import JobMismatchError, SourceError
from t5enc.storage.layout import JOB, SUCCESS
from tests.pipelines.commit.memory_store import MemoryStore
from tests.pipelines.inputs.columns.kept_rows import find, write_files
from tests.pipelines.small_jobs import make_job

FIRST = pa.schema({"caption": pa.string(), "id": pa.int64()})


def frozen(schema: pa.Schema = FIRST, **options: Any) -> FrozenJob:
    columns = identify_columns(ask(**options))
    return replace(make_job(**columns), schema=schema_to_text(schema))


def of_the_first_file(job: FrozenJob, schema: pa.Schema = FIRST) -> FrozenJob:
    """The same as releases froze it that looked at one file."""
    return replace(job, schema=base64.b64encode(schema.serialize().to_pybytes()).decode())


def ask(**options: Any) -> EncodeJob:
    return EncodeJob(inputs=["in"], output="out", model="builtin:tiny", **options)


def fit(folder: Path, there: FrozenJob | None, *tables: dict[str, Any], **options: Any) -> Columns:
    found = write_files(folder, *tables)
    return find_columns(pafs.LocalFileSystem(), found.survey.schemas, ask(**options), there)


def test_files_that_lack_a_column_or_have_a_narrower_one_fit(tmp_path: Path) -> None:
    tables: Sequence[dict[str, Any]] = [{"id": [2**40]}, {"id": pa.array([1], pa.int8())}, {"id": pa.nulls(1)}]
    columns = fit(tmp_path, frozen(), *tables)
    assert columns.schema == FIRST
    assert find(tmp_path).rows(columns)["id"].to_pylist() == [2**40, 1, None]


def test_a_new_column_is_refused_with_what_decides(tmp_path: Path) -> None:
    told = r"^1\.parquet: column 'score' \(double\): .*--overwrite to start anew, or --keep-columns caption,id to go on"
    with pytest.raises(SourceError, match=told):
        fit(tmp_path, frozen(), {"id": [1]}, {"id": [1], "score": [0.5]})


@pytest.mark.parametrize("later", [pa.array([1], pa.uint64()), pa.array(["1"])], ids=["uint64", "string"])
@pytest.mark.parametrize("keep", [None, ["caption", "id"]])
def test_a_type_that_does_not_fit_is_refused_with_both_types(
    tmp_path: Path, later: pa.Array, keep: list[str] | None
) -> None:
    told = rf"^1\.parquet: column 'id': expected what int64 holds, .*, got {later.type}: .*--overwrite to start anew$"
    with pytest.raises(SourceError, match=told):
        fit(tmp_path, frozen(), {"id": [1]}, {"id": later, "score": [0.5]}, keep_columns=keep)


def test_a_column_that_no_file_has_any_more_is_refused(tmp_path: Path) -> None:
    told = r"^0\.parquet: column 'id': expected some file to have it, .* got only caption \(string\), ID \(int64\): "
    for folder, there in {"all": frozen(), "first": of_the_first_file(frozen())}.items():
        with pytest.raises(SourceError, match=told):
            fit(tmp_path / folder, there, {"ID": [1]}, keep_columns=["caption", "id"])
    columns = fit(tmp_path / "some", frozen(), {"score": [1]}, {"id": [1]}, keep_columns=["caption", "id"])
    assert columns.found["id"] == [(None, "0.parquet", 1), ("int64", "1.parquet", 1)]


def test_keeping_just_what_is_there_goes_on_without_what_is_new(tmp_path: Path) -> None:
    there, keep = frozen(), ["caption", "id"]
    columns = fit(tmp_path, there, {"id": [1]}, {"id": [2], "score": [0.5]}, keep_columns=keep)
    assert (columns.schema, dict(columns.left_out)) == (FIRST, {"score": "double"})
    store = MemoryStore()
    freeze(store, there)
    asked = ask(keep_columns=keep)
    assert freeze(store, replace(there, identity=there.identity | identify_columns(asked, there))) == there
    with pytest.raises(JobMismatchError, match="keep_columns"):
        freeze(store, replace(there, identity=there.identity | identify_columns(ask(keep_columns=["id"]), there)))


def test_a_job_that_looked_at_one_file_goes_on_as_it_was(tmp_path: Path) -> None:
    columns = fit(tmp_path, of_the_first_file(frozen()), {"id": [1]}, {"id": ["2"], "score": [0.5]})
    assert (columns.schema, dict(columns.left_out)) == (FIRST, {"score": "double"})
    assert find(tmp_path).rows(columns)["id"].to_pylist() == [1, 2]


EXTENDED = {
    "j": pa.array(["{}", None], pa.json_()),
    "t": pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.float32(), [2]), pa.array([[1, 2], None], pa.list_(pa.float32(), 2))
    ),
    "s": pa.StructArray.from_arrays([pa.array([b"0" * 16, None], pa.uuid())], ["id"]),
}


@pytest.mark.usefixtures("in_process")
def test_shards_of_a_job_that_goes_on_have_the_types_of_those_that_are_there(tmp_path: Path) -> None:
    write_files(tmp_path / "in", EXTENDED)
    job = EncodeJob(
        inputs=[str(tmp_path / "in")], output=str(tmp_path / "out"), model="builtin:tiny", keep_columns=list(EXTENDED)
    )
    encode_parquet(job)
    there = find_frozen(open_store(job.output))
    assert there is not None
    assert there.kept_schema.field("j").type == pa.string()
    early = pa.schema([(name, column.type) for name, column in EXTENDED.items()])
    shutil.rmtree(job.output)
    open_store(job.output).replace(JOB, of_the_first_file(there, early).to_json())
    assert encode_parquet(job).is_finished
    table, _ = load_embeddings(job.output)
    assert {name: table[name].combine_chunks() for name in EXTENDED} == EXTENDED


def test_a_cast_is_part_of_what_a_job_is(tmp_path: Path) -> None:
    assert "cast" not in identify_columns(ask())
    assert identify_columns(ask(cast={"id": "string"}))["cast"] == {"id": "string"}
    assert identify_columns(ask(cast={"id": "str"})) == identify_columns(ask(cast={"id": "string"}))
    there = frozen(pa.schema({"caption": pa.string(), "id": pa.string()}), cast={"id": "string"})
    columns = fit(tmp_path, there, {"id": ["x"]}, {"id": [7]}, cast={"id": "string"})
    assert find(tmp_path).rows(columns)["id"].to_pylist() == ["x", "7"]


@pytest.mark.usefixtures("in_process")
def test_a_file_that_comes_later_widens_nothing_and_spoils_nothing(tmp_path: Path) -> None:
    inputs, output = tmp_path / "in", tmp_path / "out"
    write_files(inputs, {"id": pa.array([1], pa.int32())}, {"id": pa.array([2], pa.int32()), "url": ["u"]})
    job = EncodeJob(inputs=[str(inputs)], output=str(output), model="builtin:tiny", max_length=16)
    said: list[Any] = []
    encode_parquet(job, on_begin=lambda run: said.append(run.resolved.columns))
    there = find_frozen(open_store(str(output)))
    assert there is not None
    assert said[0].schema == there.kept_schema
    assert json.loads(there.to_json())["schema"] == there.schema
    write_files(inputs / "more", {"id": [2**40]})
    with pytest.raises(SourceError, match=r"more/0\.parquet: column 'id': .*int32.*int64"):
        encode_parquet(job)
    assert open_store(str(output)).size(SUCCESS) is not None
    write_files(inputs / "more", {"id": pa.array([3], pa.int16())})
    encode_parquet(job, on_begin=lambda run: said.append(run.resolved.columns))
    table, _ = load_embeddings(str(output))
    rows = zip(
        table["text_embedding_source"].to_pylist(), table["id"].to_pylist(), table["url"].to_pylist(), strict=True
    )
    assert sorted(rows) == [("0.parquet", 1, None), ("1.parquet", 2, "u"), ("more/0.parquet", 3, None)]
    encode_parquet(job, on_begin=lambda run: said.append(run.resolved.columns))
    assert len(said) == 2


@pytest.mark.usefixtures("in_process")
def test_a_file_without_any_caption_is_named_with_the_reasons(tmp_path: Path) -> None:
    nulls = pa.array([None, None], pa.string())
    write_files(tmp_path / "in", {"id": [1]}, pa.table({"caption": nulls, "id": [2, 3]}), {"id": [4]})
    job = EncodeJob(inputs=[str(tmp_path / "in")], output=str(tmp_path / "out"), model="builtin:tiny", max_length=16)
    report = encode_parquet(job)
    assert (report.exit_code, report.bare) == (0, ["1.parquet"])
    assert "    null caption: 2, the first in 1.parquet, row 0" in str(report).splitlines()
    assert "  no caption has an embedding of 1 input file(s): 1.parquet" in str(report).splitlines()
    assert encode_parquet(job).bare == ["1.parquet"]
