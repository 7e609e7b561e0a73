"""A tar beside each of a set that is there: samples with the same keys in the same order, so that readers join them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from t5enc.dataset.dataset import EmbeddingDataset
from t5enc.errors import ConfigError
from t5enc.trainers.contents.tars import make_end, make_index, read_keys
from t5enc.trainers.files import write_file
from t5enc.trainers.format import Pieces
from t5enc.trainers.formats.webdataset import INDEX, WebDataset
from t5enc.trainers.progress import ExportReport
from t5enc.trainers.rows import open_shards
from t5enc.trainers.run import Run, find_extras, find_index, map_bounded, write_extras
from t5enc.trainers.tar_sets.keys import NONE, FollowedTar, follow_tars, index_rows
from t5enc.trainers.tensors import narrow

# Rows that are read at a time: they lie anywhere in an output.
ROWS_AT_A_TIME = 16
# What is told of samples that are left out.
ABSENT = "samples of the tars have no row: {}"


def export_like(run: Run, format_: WebDataset, output: str | os.PathLike[str]) -> ExportReport:
    """Write what is missing. OutputError, before the first tar, for what cannot be written."""
    tars = _plan(run, format_)
    run.target.record.date(tar.part for tar in tars)
    todo = [tar for tar in tars if run.target.is_missing(tar.name, run.target.look(tar.name, None, tar.part))]
    counts = [(tar.name, int((tar.rows != NONE).sum())) for tar in tars]
    extras = find_extras(run, format_.make_extras(run.given))
    index = find_index(run, [(INDEX, [make_index(counts)])], is_stale=bool(todo))
    data = EmbeddingDataset(output, missing="zeros")
    run.begin(len(todo) + len(extras) + len(index))
    files, size = write_extras(run, extras)
    for written in map_bounded(partial(_write, run, format_, data), iter(todo), run.jobs):
        files, size = files + written[0], size + written[1]
    indexed = write_extras(run, index)
    run.end()
    absent = sum(len(tar.rows) for tar in tars) - sum(count for _, count in counts)
    return ExportReport(
        files=files + indexed[0],
        bytes=size + indexed[1],
        whole=len(tars) - len(todo),
        note=ABSENT.format(absent) if absent else None,
    )


def _plan(run: Run, format_: WebDataset) -> list[FollowedTar]:
    folder = Path(format_.like).expanduser()
    if run.link:
        raise ConfigError("--link: it holds tars, which no shard is")
    if run.target.folder.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise ConfigError(f"like: expected tars in another folder than {run.target.folder}, which is written to")
    shards = list(open_shards(run.folder, run.columns))
    index = index_rows(shards, run.columns)
    run.ticks.name(sum(shard.num_rows for shard in shards))
    may_miss = format_.missing == "skip"
    marks = hashlib.sha256(" ".join(shard.mark for shard in shards).encode()).hexdigest()
    return list(follow_tars(folder, index, may_miss=may_miss, longest=format_.pad_to, marks=marks))


def _write(run: Run, format_: WebDataset, data: EmbeddingDataset, tar: FollowedTar) -> tuple[int, int]:
    """One tar, and its bytes."""
    size = write_file(run.target.folder / tar.name, _make_tar(run, format_, data, tar))
    run.ticks.write(1, size)
    return 1, size


def _make_tar(run: Run, format_: WebDataset, data: EmbeddingDataset, tar: FollowedTar) -> Iterator[Pieces]:
    dtype, size = getattr(torch, format_.name_dtype(run.given)), 0
    samples = [(key, row) for key, row in zip(read_keys(tar.path), tar.rows.tolist(), strict=True) if row != NONE]
    for start in range(0, len(samples), ROWS_AT_A_TIME):
        part = samples[start : start + ROWS_AT_A_TIME]
        batch = data.__getitems__([row for _, row in part])
        for (key, _), values, count in zip(part, batch.embeddings, batch.lengths.tolist(), strict=True):
            pieces = format_.make_member(key, narrow(values[:count], dtype, repr(key)))
            size += sum(len(piece) for piece in pieces)
            yield pieces
    yield [make_end(size)]
