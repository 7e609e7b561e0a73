"""Outputs that store equal embeddings once: what is wrong in `shared/` is found at the rows that refer to it."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from t5enc.storage import SHARED_ROW
from tests.t5enc.checks.output.planting import (
    TEXTS,
    change_numbers,
    change_rows,
    find_shards,
    verify,
    write_output,
    wrong,
)


def test_rows_that_refer_are_verified_as_those_with_their_own(tmp_path: Path) -> None:
    output = write_output(tmp_path, [*TEXTS[:12], *TEXTS[:12], "alone"], dedup="job", duplicates="referenced")
    own = sum(pq.read_table(shard)[SHARED_ROW.name].null_count for shard in find_shards(output))
    report = verify(output)
    assert (wrong(report), report.compared, own) == (set(), 25, 1)
    shared = find_shards(output / "shared")[0]
    change_rows(shared, change_numbers(2, lambda numbers: numbers * 0))
    (zeros,) = verify(output).failures
    assert (zeros.name, zeros.wrong) == ("zeros", 2)
    shared.unlink()
    assert wrong(verify(output)) == {"readable"}
