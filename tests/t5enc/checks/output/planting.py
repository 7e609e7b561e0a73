"""Outputs to verify, and how faults are planted in copies of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines import EncodeJob
from t5enc.checkpoint.builtin import sample_captions
from t5enc.checks.output.report import OutputReport
from t5enc.checks.output.verify import verify_output
from t5enc.storage import PREFIX
from t5enc.storage.layout import JOB, RECORD_KEY
from tests.pipelines.in_process import encode_in_process

TEXTS = [*sample_captions()[:24], None, "", "a bird " * 300]
MOVED = ("bytes", "shape", "num_tokens")
DIM = 64


def write_output(
    folder: Path, captions: Sequence[Any] = TEXTS, kind: pa.DataType | None = None, **options: Any
) -> Path:
    """Two input files, and the output of a job that encodes them in shards of five rows."""
    inputs = folder / "captions"
    inputs.mkdir(parents=True)
    middle = len(captions) // 2
    for name, part in (("one", captions[:middle]), ("two", captions[middle:])):
        table = pa.table({"caption": pa.array(part, kind or pa.string())})
        pq.write_table(table, inputs / f"{name}.parquet", row_group_size=4)
    usual = {"model": "builtin:tiny", "rows_per_shard": 5}
    encode_in_process(
        EncodeJob.from_mapping({"inputs": [str(inputs)], "output": str(folder / "out"), **usual, **options})
    )
    return folder / "out"


def copy_output(output: Path, folder: Path) -> Path:
    """One that may be damaged."""
    shutil.copytree(output, folder / "copy")
    return folder / "copy"


def verify(output: Path, **options: Any) -> OutputReport:
    """All rows, unless told otherwise."""
    return verify_output(output, **{"rows": None, "device": "cpu", **options})


def wrong(report: OutputReport) -> set[str]:
    """The checks that do not hold."""
    return {check.name for check in report.failures}


def change_job(output: Path, **identity: Any) -> None:
    """Other words in the job's identity."""
    path = output / JOB
    job = json.loads(path.read_text())
    job["identity"] |= identity
    path.write_text(json.dumps(job))


def read_job(output: Path) -> dict[str, Any]:
    """What the job says."""
    found: dict[str, Any] = json.loads((output / JOB).read_text())
    return found


def find_shards(output: Path) -> list[Path]:
    """In order."""
    return sorted((output / "data").rglob("*.parquet"))


Change = Callable[[dict[str, list[Any]]], None]


def change_rows(shard: Path, change: Change, metadata: Mapping[bytes, bytes] | None = None) -> None:
    """Write a shard again with other values; `change` is given its columns as lists, without their prefix.

    Its footer still says which shard it is.
    """
    table = pq.read_table(shard)
    record = pq.read_metadata(shard).metadata[RECORD_KEY]
    columns = {name.removeprefix(PREFIX): table[name].to_pylist() for name in table.column_names}
    change(columns)
    fields = [table.schema.field(name) for name in table.column_names]
    arrays = [pa.array(columns[field.name.removeprefix(PREFIX)], field.type) for field in fields]
    schema = table.schema.with_metadata({**(table.schema.metadata or {}), RECORD_KEY: record, **(metadata or {})})
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), shard, compression="none", use_dictionary=False)


def change_numbers(place: int, change: Callable[[NDArray[Any]], NDArray[Any]], dtype: str = "float16") -> Change:
    """The numbers (T, M) of one row."""

    def apply(columns: dict[str, list[Any]]) -> None:
        numbers = np.frombuffer(columns["bytes"][place], dtype).reshape(-1, DIM).copy()
        columns["bytes"][place] = change(numbers).astype(dtype).tobytes()

    return apply


def move_rows(order: Sequence[int]) -> Change:
    """Embeddings to other rows, with what is said of their size."""

    def apply(columns: dict[str, list[Any]]) -> None:
        for name in MOVED:
            columns[name] = [columns[name][place] for place in order]

    return apply


def set_value(name: str, place: int, value: Any) -> Change:
    """One value of one column."""

    def apply(columns: dict[str, list[Any]]) -> None:
        columns[name][place] = value

    return apply
