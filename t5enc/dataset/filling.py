"""Rows from shards straight into a padded batch.

B rows of a batch, S the padded length, M model dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t5enc.dataset.rows import Located, Rows
from t5enc.dataset.samples import find_size
from t5enc.errors import OutputError
from t5enc.shards.byte_ranges import Wanted, cut_runs, read_run
from t5enc.shards.index import name_row
from t5enc.shards.row_groups import copy_rows
from t5enc.storage.codecs import count_tokens, decode_into, find_codec


@dataclass(frozen=True, slots=True, kw_only=True)
class Null:
    """What stands in place of a dropped row: these rows (K, M), or where there are none, zeros for each of its own."""

    rows: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """A batch while it is filled: `flat` (B, bytes of S tokens) is the memory of `padded` (B, S, M).

    `is_plain` says of each output whether its bytes are numbers as they lie in memory.
    """

    rows: Rows
    located: Located
    padded: Tensor
    flat: NDArray[np.uint8]
    buffers: list[NDArray[np.uint8]]
    is_plain: list[bool]

    @property
    def token_bytes(self) -> int:
        """Bytes of a token of the batch."""
        return self.padded.shape[2] * self.padded.itemsize


def read_padded(
    rows: Rows, numbers: NDArray[np.int64], dropped: NDArray[np.bool_], null: Null | None, pad_to: int | None
) -> tuple[Tensor, NDArray[np.int64]]:
    """(B, S, M) of rows by number with zeros after their tokens, and (B,) how many tokens they have."""
    located = rows.locate(numbers)
    _check_missing(rows, located, dropped)
    lengths = located.tokens
    if null is not None and null.rows is not None:
        lengths = np.where(dropped, len(null.rows), lengths)
    output = rows.catalog.outputs[0]
    dtype = getattr(torch, output.working)
    shape = (len(numbers), find_size(lengths.tolist(), pad_to), output.dim)
    padded = _take_memory(rows, shape, dtype)
    if padded.numel():
        flat = padded.view(torch.uint8).numpy().reshape(len(padded), -1)
        _fill(rows, located, dropped, padded, flat)
        _fill_dropped(padded, dropped, null)
    return padded, lengths


def _take_memory(rows: Rows, shape: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
    size = math.prod(shape) * dtype.itemsize
    return (
        torch.from_numpy(rows.process.memory.take(size)).view(dtype).view(shape)
        if size
        else torch.empty(shape, dtype=dtype)
    )


def _check_missing(rows: Rows, located: Located, dropped: NDArray[np.bool_]) -> None:
    if rows.missing != "error":
        return
    for place in np.flatnonzero(~located.is_there & ~dropped).tolist():
        path = rows.catalog.find_path(int(located.shards[place]))
        raise OutputError(f"{name_row(path, int(located.file_rows[place]))}: expected an embedding, got none")


def _fill(rows: Rows, located: Located, dropped: NDArray[np.bool_], padded: Tensor, flat: NDArray[np.uint8]) -> None:
    is_wanted = located.is_there & ~dropped
    is_plain = [find_codec(output.storage).is_plain for output in rows.catalog.outputs]
    filling = Filling(
        rows=rows,
        located=located,
        padded=padded,
        flat=flat,
        buffers=_make_buffers(rows.catalog.output_of[located.shards], located, is_plain, is_wanted, flat),
        is_plain=is_plain,
    )
    for place in np.flatnonzero(~is_wanted).tolist():
        flat[place] = 0
    tasks = [
        *_share_ranges(filling, np.flatnonzero(is_wanted & located.is_plain)),
        *_share_groups(filling, np.flatnonzero(is_wanted & ~located.is_plain)),
    ]
    rows.process.run(tasks)


def _make_buffers(
    outputs: NDArray[np.int32],
    located: Located,
    is_plain: list[bool],
    is_wanted: NDArray[np.bool_],
    flat: NDArray[np.uint8],
) -> list[NDArray[np.uint8]]:
    """Where each row's bytes go: into the batch as they are, or beside it to be decoded."""
    return [
        flat[place, :size] if is_plain[output] or not wanted else np.empty(size, np.uint8)
        for place, (size, output, wanted) in enumerate(
            zip(located.sizes.tolist(), outputs.tolist(), is_wanted.tolist(), strict=True)
        )
    ]


def _share_ranges(filling: Filling, places: NDArray[np.int64]) -> Iterator[Callable[[], None]]:
    """The rows of these places by byte range, cut for the threads."""
    located = filling.located
    wanted = Wanted(
        places=places, shards=located.shards[places], starts=located.starts[places], sizes=located.sizes[places]
    )
    ordered, bounds = cut_runs(wanted)
    for first, last in _share_out(ordered.sizes, bounds, filling.rows):
        yield partial(_read_ranges, filling, ordered, bounds[first : last + 1])


def _share_out(sizes: NDArray[np.int64], bounds: NDArray[np.int64], rows: Rows) -> Iterator[tuple[int, int]]:
    """Stretches of runs of about as many bytes each, one a thread at most."""
    runs = len(bounds) - 1
    if not runs:
        return
    before = np.concatenate([[0], np.cumsum(sizes)])[bounds]
    process = rows.process
    shares = min(process.threads, runs, 1 + int(before[-1]) // process.share_bytes)
    cuts = np.searchsorted(before, np.linspace(0, before[-1], shares + 1)[1:-1])
    edges = np.unique([0, *cuts.tolist(), runs]).tolist()
    yield from pairwise(edges)


def _read_ranges(filling: Filling, ordered: Wanted, bounds: NDArray[np.int64]) -> None:
    """Some stretches of rows; those that are not where they should be by their row groups."""
    rows = filling.rows
    for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        shard, places = int(ordered.shards[first]), ordered.places[first:last]
        buffers = [filling.buffers[place] for place in places.tolist()]
        index = rows.index(shard)
        is_right = read_run(rows.open(shard), index.stamp, int(ordered.starts[first]), buffers)
        _finish(filling, places[is_right])
        if not is_right.all():
            index.is_plain[filling.located.groups[places[~is_right]]] = False
            for read in _share_groups(filling, places[~is_right]):
                read()


def _share_groups(filling: Filling, places: NDArray[np.int64]) -> Iterator[Callable[[], None]]:
    """The rows of these places by row group, a task each."""
    if not len(places):
        return
    located = filling.located
    keys = np.stack([located.shards[places], located.groups[places]], axis=1)
    for shard, group in np.unique(keys, axis=0).tolist():
        yield partial(_read_rows, filling, shard, group, places[(keys == (shard, group)).all(axis=1)])


def _read_rows(filling: Filling, shard: int, group: int, places: NDArray[np.int64]) -> None:
    decoded = filling.rows.group(shard, group)
    file_rows = filling.located.file_rows[places].tolist()
    copy_rows(filling.rows.open(shard), decoded, file_rows, [filling.buffers[place] for place in places.tolist()])
    _finish(filling, places)


def _finish(filling: Filling, places: NDArray[np.int64]) -> None:
    """Decode what was read beside the batch, and set pads to zero."""
    tokens, outputs = filling.located.tokens[places], filling.rows.catalog.output_of[filling.located.shards[places]]
    width, is_plain = filling.token_bytes, filling.is_plain
    for place, count, output in zip(places.tolist(), tokens.tolist(), outputs.tolist(), strict=True):
        if not is_plain[output]:
            _decode(filling, place, filling.padded[place, :count])
        filling.flat[place, count * width :] = 0


def _decode(filling: Filling, place: int, out: Tensor) -> None:
    """A row's bytes into its part of the batch; OutputError where they are of another number of tokens, or damaged."""
    located, catalog = filling.located, filling.rows.catalog
    shard, data = int(located.shards[place]), filling.buffers[place]
    output = catalog.find_output(shard)
    try:
        found = count_tokens(data, output.storage, output.dim)
        if found != len(out):
            raise OutputError(f"expected the embedding of {len(out)} tokens, got one of {found}")
        decode_into(data, output.storage, out)
    except OutputError as error:
        file_row = int(located.file_rows[place])
        raise OutputError(f"{name_row(catalog.find_path(shard), file_row)}: {error}") from error


def _fill_dropped(padded: Tensor, dropped: NDArray[np.bool_], null: Null | None) -> None:
    if null is None or null.rows is None:
        return
    for place in np.flatnonzero(dropped).tolist():
        padded[place, : len(null.rows)] = null.rows
