"""Footers of many files: in order whoever reads them, damaged ones named, few results waiting."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from pipelines.inputs.sources import SourceFile, open_inputs
from pipelines.run import survey as survey_module
from pipelines.run.survey import survey
from pipelines.stores.concurrent_map import AHEAD, map_ahead

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
    files, bad = survey(LOCAL, sources, **options)
    rows = [count for count in range(COUNT) if f"{count:02d}.parquet" != DAMAGED]
    assert [planned.num_rows for planned in files] == rows
    assert [planned.file for planned in files] == [file for file in sources if file.source != DAMAGED]
    assert [planned.largest_group for planned in files] == [min(count, 3) for count in rows]
    assert list(bad) == [DAMAGED]
    assert "expected a Parquet file that ends in" in bad[DAMAGED]


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

    results = map_ahead(note, iter(range(1000)), threads=2)
    assert next(results) == 0
    assert len(begun) <= 2 * AHEAD + 1
    assert list(results) == list(range(1, 1000))


def test_an_error_is_raised_in_its_turn_and_ends_the_rest() -> None:
    def fail(item: int) -> Any:
        if item == 3:
            raise OSError("gone")
        return item

    results = map_ahead(fail, range(100), threads=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="gone"):
        next(results)
