"""A run with dedup that is stopped at any write, and run again, makes what an undisturbed plain job makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import encode_parquet
from pipelines.job import EncodeJob
from tests.pipelines.dedup.jobs import assert_as_plain, encode_plain, make_job, write_files
from tests.pipelines.dedup.writes import Killed, stopping_at

pytestmark = pytest.mark.usefixtures("in_process")
DUPLICATES = ("copied", "referenced")
# Writes of the longest run, and some.
MOST_WRITES = 80


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a job without dedup makes of the files."""
    return encode_plain(tmp_path_factory.mktemp("plain"))


def run_until(job: EncodeJob, last: int, *, is_done: bool) -> bool:
    """Whether a run came to its end before it was stopped."""
    try:
        with stopping_at(last, is_done=is_done):
            encode_parquet(job)
    except Killed:
        return False
    return True


@pytest.mark.parametrize("duplicates", DUPLICATES)
def test_runs_that_are_stopped_again_and_again_get_there(tmp_path: Path, plain: Path, duplicates: str) -> None:
    job = make_job(write_files(tmp_path / "in"), tmp_path / "out", dedup="job", duplicates=duplicates)
    stops = iter(range(6, MOST_WRITES, 5))
    while not run_until(job, next(stops), is_done=False):
        pass
    assert_as_plain(tmp_path / "out", plain)


@pytest.mark.long
@pytest.mark.parametrize("is_done", [True, False])
@pytest.mark.parametrize("duplicates", DUPLICATES)
def test_a_run_that_is_stopped_at_any_write_goes_on(
    tmp_path: Path, plain: Path, duplicates: str, is_done: bool
) -> None:
    inputs = write_files(tmp_path / "in")
    for last in range(1, MOST_WRITES):
        job = make_job(inputs, tmp_path / f"out-{last}", dedup="job", duplicates=duplicates)
        is_over = run_until(job, last, is_done=is_done)
        encode_parquet(job)
        assert_as_plain(tmp_path / f"out-{last}", plain)
        if is_over:
            return
    raise AssertionError(f"expected a run of fewer than {MOST_WRITES} writes")


@pytest.mark.long
@pytest.mark.parametrize("duplicates", DUPLICATES)
def test_another_run_from_beginning_to_end_at_any_write_does_no_harm(
    tmp_path: Path, plain: Path, duplicates: str
) -> None:
    inputs = write_files(tmp_path / "in")
    for last in (8, 12, 16, 22, 30):
        job = make_job(inputs, tmp_path / f"out-{last}", dedup="job", duplicates=duplicates)
        with stopping_at(last) as writes:
            writes.on_last = lambda job=job: encode_parquet(job)
            encode_parquet(job)
        assert_as_plain(tmp_path / f"out-{last}", plain)
