"""Footers of many files: in order whoever reads them, damaged ones named, few results waiting."""

from __future__ import annotations

import pickle
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from pipelines.inputs import footers
from pipelines.inputs.sources import SourceFile, open_inputs
from pipelines.run import survey as survey_module
from pipelines.run.survey import survey
from pipelines.stores.concurrent_map import CALLS_PER_THREAD, map_concurrently

LOCAL = pafs.LocalFileSystem()
COUNT = 23
DAMAGED = "07.parquet"


@pytest.fixture
def sources(tmp_path: Path) -> list[SourceFile]:
    """Files of 0, 1, 2, ... rows in groups of three; one is cut short."""
    for rows in range(COUNT):
        table = pa.table({"caption": pa.array(["a"] * rows, pa.string())})
        pq.write_table(table, tmp_path / f"{rows:02d}.parquet", row_group_size=3)
    (tmp_path / DAMAGED).write_bytes((tmp_path / DAMAGED).read_bytes()[:-5])
    return list(open_inputs([str(tmp_path)]).files())


def check(sources: list[SourceFile], **options: int) -> None:
    found = survey(LOCAL, sources, **options)
    files, bad = found.files, found.unreadable
    (schema,) = found.schemas
    assert schema.schema == pa.schema([("caption", pa.string())])
    assert (schema.files, schema.rows) == (COUNT - 1, sum(range(COUNT)) - 7)
    assert schema.file == sources[0]
    rows = [count for count in range(COUNT) if f"{count:02d}.parquet" != DAMAGED]
    assert [planned.num_rows for planned in files] == rows
    assert [planned.file for planned in files] == [file for file in sources if file.source != DAMAGED]
    assert [planned.largest_group for planned in files] == [min(count, 3) for count in rows]
    assert list(bad) == [DAMAGED]
    assert "expected a Parquet file, got the beginning of one" in bad[DAMAGED]


def test_threads_read_every_footer_in_order(sources: list[SourceFile]) -> None:
    check(sources)


@pytest.mark.usefixtures("local_ray")
def test_tasks_of_a_cluster_read_the_same(sources: list[SourceFile], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_module, "FILES_A_TASK", 5)
    check(sources, cpus=1)


def test_no_more_is_begun_than_a_few_calls_a_thread() -> None:
    begun: list[int] = []
    lock = threading.Lock()

    def note(item: int) -> int:
        with lock:
            begun.append(item)
        return item

    results = map_concurrently(note, iter(range(1000)), threads=2)
    assert next(results) == 0
    assert len(begun) <= 2 * CALLS_PER_THREAD + 1
    assert list(results) == list(range(1, 1000))


def test_an_error_is_raised_in_its_turn_and_ends_the_rest() -> None:
    def fail(item: int) -> Any:
        if item == 3:
            raise OSError("gone")
        return item

    results = map_concurrently(fail, range(100), threads=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="gone"):
        next(results)


def test_no_footer_is_read_twice_and_equal_schemas_are_sent_once(
    sources: list[SourceFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task of a cluster sends each schema once, whatever it could not read before."""
    Path(sources[0].path).write_bytes(b"torn")
    read: Counter[str] = Counter()

    def read_footer(filesystem: Any, file: SourceFile) -> Any:
        read[file.source] += 1
        return footers.read_footer(filesystem, file)

    monkeypatch.setattr(survey_module, "read_footer", read_footer)
    (schema,) = survey(LOCAL, sources).schemas
    assert read == dict.fromkeys([file.source for file in sources], 1)
    plan = partial(survey_module._plan_file, LOCAL, None)
    sent = [one for one in survey_module._read_piece(LOCAL, sources, plan) if not isinstance(one, str)]
    assert len(sent) == COUNT - 2
    assert {id(one.schema) for one in sent} == {id(sent[0].schema)}
    assert sent[0].schema == schema.packed
    assert pickle.dumps(sent).count(schema.packed) == 1


def test_schemas_are_those_of_files_with_rows(tmp_path: Path) -> None:
    for place, table in enumerate(
        [
            pa.table({"caption": pa.nulls(0), "url": pa.array([], pa.int64())}),
            pa.table({"caption": ["a"], "url": ["b"]}),
            pa.table({"caption": ["c", "d"], "url": pa.nulls(2)}),
            pa.table({"caption": ["e"], "url": ["f"]}, metadata={"pandas": "{}"}),
        ]
    ):
        pq.write_table(table, tmp_path / f"{place}.parquet")
    (text, null) = survey(LOCAL, list(open_inputs([str(tmp_path)]).files())).schemas
    assert (text.files, text.rows, text.file.source) == (2, 2, "1.parquet")
    assert (null.files, null.rows, null.file.source) == (1, 2, "2.parquet")
    (tmp_path / "alone").mkdir()
    (tmp_path / "0.parquet").rename(tmp_path / "alone" / "0.parquet")
    (alone,) = survey(LOCAL, list(open_inputs([str(tmp_path / "alone")]).files())).schemas
    assert (alone.files, alone.rows) == (1, 0)
