"""Rows from shards straight into a padded batch.

B rows of a batch, S the padded length, M model dim.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t5enc.dataset.rows import Rows
from t5enc.dataset.samples import find_size
from t5enc.errors import OutputError
from t5enc.shards.fetching import Fetching, fetch
from t5enc.shards.index import name_row
from t5enc.shards.located import Located
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
    fetching = Fetching(shards=rows, located=located, buffers=filling.buffers, finish=partial(_finish, filling))
    fetch(fetching, np.flatnonzero(is_wanted))


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
