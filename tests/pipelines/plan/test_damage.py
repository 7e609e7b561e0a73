"""Footers whose columns cannot be looked at: a file that is named, where pyarrow would end the process."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipelines.inputs.sources import SourceFile
from pipelines.plan.density import Weighing
from pipelines.run.survey import survey

# The byte of a footer that says whether the column of lists may be null: levels of the sizes do not fit another one.
PLACE, BEFORE, AFTER = 17, 53, 51


def test_a_footer_that_contradicts_itself_is_a_file_that_is_named(tmp_path: Path) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"caption": [["a", "b"]] * 20}), sink, store_schema=False)
    data = bytearray(sink.getvalue())
    (tmp_path / "good").write_bytes(data)
    place = len(data) - 8 - int.from_bytes(data[-8:-4], "little") + PLACE
    assert data[place] == BEFORE
    data[place] = AFTER
    (tmp_path / "bad").write_bytes(data)
    files = [SourceFile(source=n, path=str(tmp_path / n), size=len(data), partitions=()) for n in ("good", "bad")]
    found = survey(pafs.LocalFileSystem(), files, weighing=Weighing("caption"))
    assert len(found.files) == 1
    assert list(found.unreadable) == ["bad"]
    assert found.unreadable["bad"].startswith("bad: expected a Parquet footer, got a damaged one: ")
