"""Files of captions, and reading a span of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from pipelines.actors.captions import CaptionBatch, read_captions
from pipelines.inputs.columns.choice import Columns, Wanted, choose_columns
from pipelines.inputs.columns.schemas_seen import SchemaTally, pack_schema
from pipelines.inputs.footers import read_footer
from pipelines.inputs.sources import SourceFile
from pipelines.plan.units import Span

LOCAL = pafs.LocalFileSystem()


def write(path: Path, table: pa.Table, **options: Any) -> SourceFile:
    pq.write_table(table, path, **options)
    return SourceFile(source=path.name, path=str(path), size=path.stat().st_size, partitions=())


def whole(filesystem: Any, file: SourceFile) -> Span:
    footer = read_footer(filesystem, file)
    return Span(file=file, digest=footer.digest, first_row=0, num_rows=footer.num_rows, rows_per_unit=10)


def list_kept(batch: CaptionBatch) -> Any:
    """What is kept of all captions of a small batch, repeated for each."""
    return batch.keep(slice(0, len(batch.rows)))


def find_columns(found: Iterable[tuple[pa.Schema, SourceFile]], text: str = "caption", **wanted: Any) -> Columns:
    """The columns of files with these schemas, all of them with rows."""
    tally = SchemaTally()
    for schema, file in found:
        tally.add(pack_schema(schema), file, 1)
    return choose_columns(tally.telling(), Wanted.of(text, **wanted))


def read(
    span: Span,
    *,
    schema: pa.Schema | None = None,
    choice: Any = "all",
    rows_per_unit: int | None = None,
    skip: Callable[[int], bool] = lambda row: False,
    filesystem: Any = LOCAL,
) -> list[CaptionBatch]:
    if schema is None:
        schema = find_columns([(read_footer(filesystem, span.file).schema, span.file)]).schema
    return list(
        read_captions(
            filesystem,
            span if rows_per_unit is None else replace(span, rows_per_unit=rows_per_unit),
            text_column="caption",
            caption_choice=choice,
            schema=schema,
            skip=skip,
        )
    )
