"""What is kept of real Parquet files, by the survey and the reader that a job has, without a model and without Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipelines.actors.captions import read_captions
from pipelines.inputs.columns.choice import Columns, Wanted, choose_columns
from pipelines.inputs.sources import open_inputs
from pipelines.run.survey import Survey, survey
from tests.pipelines.actors.caption_files import list_kept

LOCAL = pafs.LocalFileSystem()


@dataclass(frozen=True, kw_only=True)
class Found:
    """The input files of a folder, surveyed."""

    survey: Survey

    def columns(self, keep: Sequence[str] | None = None, cast: Mapping[str, str] | None = None) -> Columns:
        """What is kept of them."""
        return choose_columns(self.survey.schemas, Wanted.of("caption", keep, cast))

    def rows(self, columns: Columns | None = None) -> pa.Table:
        """The kept rows of all files, in their order."""
        schema = (columns or self.columns()).schema
        options: dict[str, Any] = {"text_column": "caption", "caption_choice": "all", "skip": lambda row: False}
        parts = []
        for planned in self.survey.files:
            span = planned.span(0, planned.num_rows, 1000)
            for batch in read_captions(LOCAL, span, schema=schema, **options):
                list_kept(batch).validate(full=True)
                parts.append(list_kept(batch))
        return pa.concat_tables(parts)


def find(folder: Path) -> Found:
    """Survey a folder."""
    inputs = open_inputs([str(folder)])
    return Found(survey=survey(inputs.filesystem, list(inputs.files())))


def write_files(folder: Path, *tables: Mapping[str, Any] | pa.Table, **options: Any) -> Found:
    """Files `0.parquet`, `1.parquet`, ... of these columns beside captions, surveyed."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, table in enumerate(tables):
        if not isinstance(table, pa.Table):
            rows = len(next(iter(table.values())))
            table = pa.table({"caption": [f"a bird {row}" for row in range(rows)]} | dict(table))
        pq.write_table(table, folder / f"{place}.parquet", **options)
    return find(folder)
