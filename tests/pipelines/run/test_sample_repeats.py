"""The sample of captions that come again is spread over all files, and is exact where it is all of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipelines.job import EncodeJob
from pipelines.plan.plan import Files
from pipelines.run.resolved_job import resolve_job
from pipelines.run.sample_repeats import PLACES, ROWS, choose_places, sample_repeats
from t5enc.checkpoint.builtin import sample_captions
from t5enc.checkpoint.opening import open_model
from t5enc.text.preparer import open_preparer
from tests.pipelines.small_jobs import plan_file

TEXTS = sample_captions()


def sample(folder: Path, files: dict[str, list[str | None]]) -> tuple[int, int, float]:
    for name, texts in files.items():
        pq.write_table(pa.table({"caption": pa.array(texts, pa.string())}), folder / f"{name}.parquet")
    job = EncodeJob(inputs=[str(folder)], output="-", model="builtin:tiny")
    resolved = resolve_job(job, torch.device("cpu"))
    found = sample_repeats(resolved, job, open_preparer(resolved.options, open_model(resolved.options.source)))
    assert found.seconds_per_caption > 0
    return found.captions, found.repeated, found.share


def test_a_sample_of_everything_counts_what_comes_again(tmp_path: Path) -> None:
    texts = [TEXTS[0], *TEXTS[:9], None]
    captions, repeated, share = sample(tmp_path, {"a": list(texts), "b": TEXTS[8:10] * 2})
    assert (captions, repeated) == (14, 1)
    assert 0 < share < 0.5


def test_what_comes_again_within_a_shard_is_encoded_once_anyway(tmp_path: Path) -> None:
    assert sample(tmp_path, {"a": TEXTS[:3] * 50, "b": TEXTS[3:6]}) == (153, 0, 0.0)


def test_many_small_files_are_sampled_as_few_large_ones(tmp_path: Path) -> None:
    assert sample(tmp_path, {f"{part:03}": [TEXTS[part % 10]] for part in range(200)})[:2] == (200, 190)


def test_captions_of_far_files_are_compared(tmp_path: Path) -> None:
    files = {f"{part:03}": [f"{part} {row}" for row in range(1000)] for part in range(20)}
    files["000"][:500] = files["019"][:500]
    assert sample(tmp_path, dict(files))[2] > 0


@pytest.mark.parametrize("rows", [[1], [ROWS + 1], [3, 1000, 5], [10**9, 10**6], [7] * 500, [0] * 70, [0, 1] * 9000])
def test_no_row_is_read_twice(rows: list[int]) -> None:
    files = Files.of([plan_file(f"{part}.parquet", count) for part, count in enumerate(rows)])
    places = choose_places(files)
    assert sum(count for _, _, count in places) == min(sum(rows), PLACES * ROWS)
    assert len(set(places)) == len(places)
    for (file, first, count), (next_file, following, _) in pairwise(places):
        assert file < next_file or (file == next_file and first + count <= following)
