"""A local Ray for the whole session, jobs without one, an S3 server, and small inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.nodes.local_ray import start_local
from t5enc.checkpoint.builtin import sample_captions
from tests.pipelines.in_process import stay_in_process
from tests.pipelines.one_process import hide_ray


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One Ray that all jobs of the session share: starting one takes longer than most jobs."""
    ray = pytest.importorskip("ray", reason="needs ray[data]")
    start_local(num_cpus=2)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Host and port of one S3 server for all tests; each has a bucket, or a prefix of one, of its own."""
    s3 = pytest.importorskip("tests.pipelines.stores.s3_server", reason="needs moto[s3], flask and boto3")
    with s3.run_s3_server() as host:
        yield host


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run in this process, without Ray."""
    stay_in_process(monkeypatch)


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray that only looks like one."""
    hide_ray(monkeypatch)


WriteCaptions = Callable[..., Path]


@pytest.fixture
def write_captions(tmp_path: Path) -> WriteCaptions:
    """Write captions as files of `rows_per_file` rows with an id each; returns the folder."""

    def write(
        captions: Sequence[str | None] | None = None, *, rows_per_file: int = 100, folder: str = "captions"
    ) -> Path:
        texts = sample_captions() if captions is None else captions
        root = tmp_path / folder
        root.mkdir(parents=True, exist_ok=True)
        for part, start in enumerate(range(0, len(texts), rows_per_file)):
            rows = list(texts[start : start + rows_per_file])
            ids = list(range(start, start + len(rows)))
            table = pa.table({"id": ids, "caption": pa.array(rows, pa.string())})
            pq.write_table(table, root / f"part-{part:03d}.parquet", row_group_size=30)
        return root

    return write
