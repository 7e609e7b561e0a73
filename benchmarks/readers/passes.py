"""One pass of one reader over stored rows, into padded batches, in a process of its own.

    python -m benchmarks.readers.passes < TASK    a Task as JSON; its costs as JSON

B rows of a batch, S the longest of them, L tokens of a row, M model dim.
"""

from __future__ import annotations

import io
import json
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.readers.meter import evict, measure
from benchmarks.readers.written import DIM, list_files

Row = NDArray[np.float16]
# Batches of the order that are sorted by length at a time.
BUCKET = 32
BYTES = "text_embedding_bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A reader's name, the folder it reads, whether from the disk, the seed of its order, and how many rows at most.

    Batches are of `size` rows. The first `skip` rows are read before the clock starts.
    """

    reader: str
    folder: str
    size: int
    is_cold: bool = False
    seed: int = 0
    limit: int = sys.maxsize
    skip: int = 0
    threads: int = 4


def main() -> None:
    """Be the process of a pass."""
    task = Task(**json.load(sys.stdin))
    batches = READERS[task.reader](task)
    if task.is_cold:
        evict(list_files(Path(task.folder)))
    print(json.dumps(measure(batches, skip=task.skip, limit=task.limit)))


def _open_ours(
    *, by_length: bool = False, threads: int | None = None, **options: Any
) -> Callable[[Task], Iterator[tuple[int, int]]]:
    """EmbeddingDataset by the batches of a sampler with these options; both are opened before the clock starts."""

    def read(task: Task) -> Iterator[tuple[int, int]]:
        from t5enc.dataset.dataset import EmbeddingDataset
        from t5enc.dataset.sampler import EmbeddingSampler

        data = EmbeddingDataset(task.folder, threads=threads or task.threads)
        data.lengths()
        window = BUCKET * task.size if by_length else None
        sampler = EmbeddingSampler(
            data, seed=task.seed, rank=0, world_size=1, batch_size=task.size, bucket_rows=window, **options
        )
        return _count(map(data.__getitems__, sampler))

    return read


def _read_ahead(task: Task) -> Iterator[tuple[int, int]]:
    """EmbeddingLoader, in random order."""
    from t5enc.dataset.dataset import EmbeddingDataset
    from t5enc.dataset.loader import EmbeddingLoader
    from t5enc.dataset.sampler import EmbeddingSampler

    data = EmbeddingDataset(task.folder, threads=task.threads)
    data.lengths()
    sampler = EmbeddingSampler(data, seed=task.seed, rank=0, world_size=1, batch_size=task.size)
    return _count(EmbeddingLoader(data, sampler))


def _count(batches: Iterable[Any]) -> Iterator[tuple[int, int]]:
    """Rows and bytes of each batch, pads not counted."""
    for batch in batches:
        yield len(batch.lengths), int(batch.lengths.sum()) * batch.embeddings.shape[2] * 2


def _read_groups_at_random(task: Task) -> Iterator[tuple[int, int]]:
    """pyarrow's `read_row_group` for each row, as whoever has no byte ranges must."""
    import pyarrow.parquet as pq

    files = [pq.ParquetFile(path) for path in sorted(Path(task.folder).rglob("*.parquet"))]
    places = [
        (file, group, row)
        for file in files
        for group in range(file.num_row_groups)
        for row in range(file.metadata.row_group(group).num_rows)
    ]
    random.Random(task.seed).shuffle(places)
    rows = (file.read_row_group(group, columns=[BYTES])[BYTES][row].as_buffer() for file, group, row in places)
    return _pad_all(map(_view, rows), task.size)


def _read_groups(task: Task) -> Iterator[tuple[int, int]]:
    """pyarrow's row groups in order."""
    import pyarrow.parquet as pq

    files = (pq.ParquetFile(path) for path in sorted(Path(task.folder).rglob("*.parquet")))
    groups = (file.read_row_group(group, columns=[BYTES]) for file in files for group in range(file.num_row_groups))
    return _pad_all((_view(value.as_buffer()) for group in groups for value in group[BYTES]), task.size)


def _stream_datasets(task: Task) -> Iterator[tuple[int, int]]:
    """Hugging Face `datasets`, streaming in order."""
    from datasets import load_dataset

    paths = [str(path) for path in sorted(Path(task.folder).rglob("*.parquet"))]
    data = load_dataset("parquet", data_files=paths, streaming=True, split="train", columns=[BYTES])
    return _pad_all((_view(row[BYTES]) for row in data), task.size)


def _read_tars(task: Task) -> Iterator[tuple[int, int]]:
    """webdataset, in order."""
    import webdataset

    paths = [str(path) for path in sorted(Path(task.folder).glob("*.tar"))]
    samples = webdataset.WebDataset(paths, shardshuffle=False)
    return _pad_all((np.load(io.BytesIO(sample["npy"])) for sample in samples), task.size)


def _view(data: Any) -> Row:
    return np.frombuffer(data, np.float16).reshape(-1, DIM)


def _pad_all(rows: Iterator[Row], size: int) -> Iterator[tuple[int, int]]:
    while batch := list(islice(rows, size)):
        pad_rows(batch)
        yield len(batch), sum(row.nbytes for row in batch)


def pad_rows(rows: list[Row]) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
    """(B, S, M) with zeros after the rows (L, M), and their mask (B, S)."""
    lengths = np.array([len(row) for row in rows])
    padded = np.zeros((len(rows), int(lengths.max()), rows[0].shape[1]), np.float16)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
    return padded, np.arange(padded.shape[1]) < lengths[:, None]


READERS: Mapping[str, Callable[[Task], Iterator[tuple[int, int]]]] = {
    "t5enc, random": _open_ours(),
    "t5enc, random, one thread": _open_ours(threads=1),
    "t5enc, random, 30 % referred": _open_ours(),
    "t5enc, random, by length": _open_ours(by_length=True),
    "t5enc, whole row groups mixed": _open_ours(order="row_groups"),
    "t5enc, in order": _open_ours(order="sequential"),
    "t5enc, random, read ahead": _read_ahead,
    "pyarrow read_row_group, random": _read_groups_at_random,
    "pyarrow row groups, in order": _read_groups,
    "datasets streaming, in order": _stream_datasets,
    "webdataset, in order": _read_tars,
}

if __name__ == "__main__":
    main()
