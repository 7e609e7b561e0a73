"""Outputs in stores: rows by ranged requests, no more of them than rows, and neighbours by one."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from t5enc import EmbeddingDataset
from t5enc.errors import OutputError
from t5enc.storage.layout import SHARD_NAME
from tests.pipelines.stores.s3_server import FaultyProxy, connect
from tests.t5enc.dataset.outputs import Shard, rewrite, write_output

SHARDS = [Shard(lengths=[3, 1, None, 9, 2, 8], source=f"{name}.parquet") for name in "abc"]
ROWS = 15


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = write_output(tmp_path / "out", SHARDS)
    rewrite(tmp_path / "out" / names[1], compression="zstd")
    return tmp_path / "out"


@pytest.fixture
def uri(folder: Path, server: str, proxy: FaultyProxy, request: pytest.FixtureRequest) -> str:
    """The same output in a bucket."""
    client, bucket = connect(server), request.node.name.replace("_", "-").lower()[:40].strip("-")
    client.create_bucket(Bucket=bucket)
    for path in folder.rglob("*"):
        if path.is_file():
            client.put_object(Bucket=bucket, Key=path.relative_to(folder).as_posix(), Body=path.read_bytes())
    return f"s3://{bucket}/{proxy.query}"


def count(proxy: FaultyProxy) -> Counter[str]:
    """Requests for shards since the last time, by method."""
    found = Counter(method for method, path in proxy.requests if SHARD_NAME.search(path))
    proxy.requests.clear()
    return found


def test_rows_of_a_bucket_are_those_of_a_folder(folder: Path, uri: str) -> None:
    data, local = EmbeddingDataset(uri, columns=["id", "tags"]), EmbeddingDataset(folder, columns=["id", "tags"])
    for indices in (range(ROWS), [14, 3, 3, 7, 0]):
        batch, expected = data.__getitems__(indices), local.__getitems__(indices)
        assert torch.equal(batch.embeddings, expected.embeddings)
        assert (batch.columns, batch.keys) == (expected.columns, expected.keys)
    assert data.find_by("id", 1004) == local.find_by("id", 1004)


def test_a_row_costs_one_request_and_neighbours_one_together(uri: str, proxy: FaultyProxy) -> None:
    data = EmbeddingDataset(uri)
    assert count(proxy) == {}, "of none is anything read before a row is"
    data.lengths([0, 4, 10, 14])
    assert count(proxy) == {"HEAD": 2, "GET": 2}, "a footer tells of all rows of its shard"
    data.lengths()
    assert count(proxy)["HEAD"] == 1, "and columns do where another tool wrote them"
    for index in (0, 3, 14):
        data[index]
        assert count(proxy) == {"GET": 1}
    data.__getitems__([0, 14, 2])
    assert count(proxy) == {"GET": 3}
    data.__getitems__([1, 0])
    assert count(proxy) == {"GET": 1}


def test_an_object_that_is_gone_is_an_error_by_name(uri: str, server: str) -> None:
    data = EmbeddingDataset(uri)
    assert data[0].num_tokens == 3
    client, bucket = connect(server), uri.removeprefix("s3://").partition("/")[0]
    name = data._rows.catalog.names[0]
    client.delete_object(Bucket=bucket, Key=name)
    with pytest.raises(OutputError, match=f"{name}: cannot be read at byte"):
        data[0]


def test_an_object_that_was_replaced_is_known_by_its_tag(
    uri: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t5enc.shards.process.OPEN_OBJECTS", 1)
    data = EmbeddingDataset(uri)
    assert data[0].num_tokens == 3
    client, bucket = connect(server), uri.removeprefix("s3://").partition("/")[0]
    name = data._rows.catalog.names[0]
    content = client.get_object(Bucket=bucket, Key=name)["Body"].read()
    client.put_object(Bucket=bucket, Key=name, Body=content[:-1] + b"2")
    assert data[14].num_tokens == 8, "which forgets the other object"
    with pytest.raises(OutputError, match=f"{name}: changed since it was opened"):
        data[0]


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.long)])
def test_worker_processes_have_connections_of_their_own(folder: Path, uri: str, context: str) -> None:
    data, local = EmbeddingDataset(uri), EmbeddingDataset(folder)
    data.__getitems__([0, 14])
    batches: Any = [[0, 14, 2], [7, 1]]
    loader: Any = DataLoader(
        data,  # type: ignore[arg-type]
        batch_sampler=batches,
        num_workers=1,
        multiprocessing_context=context,
        collate_fn=data.collate,
        timeout=60,
    )
    for indices, batch in zip(batches, loader, strict=True):
        assert torch.equal(batch.embeddings, local.__getitems__(indices).embeddings)


def test_a_store_of_fsspec_is_read_by_ranges_too(folder: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for path in folder.rglob("*"):
        if path.is_file():
            memory.pipe_file(f"/dataset/{path.relative_to(folder).as_posix()}", path.read_bytes())
    data, local = EmbeddingDataset("memory://dataset", columns=["id"]), EmbeddingDataset(folder, columns=["id"])
    expected = local.__getitems__([14, 3, 7, 0])
    for opened in (data, pickle.loads(pickle.dumps(data))):
        batch = opened.__getitems__([14, 3, 7, 0])
        assert torch.equal(batch.embeddings, expected.embeddings)
        assert (batch.columns, batch.keys) == (expected.columns, expected.keys)
    memory.rm("/dataset", recursive=True)
