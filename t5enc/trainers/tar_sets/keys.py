"""Which rows of an output are the samples of tars that are there, by key.

N rows of an output, K samples of a tar.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from t5enc.errors import ConfigError, OutputError
from t5enc.trainers.contents.tars import make_key, read_keys
from t5enc.trainers.format import Caption
from t5enc.trainers.rows import Columns, Shard, read_captions

DIGEST = np.dtype([("name", "<u8", (2,)), ("row", "<i8"), ("tokens", "<i4")])
NONE, SHOWN = -1, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowedTar:
    """A tar that is there: its name below its folder, and the rows (K,) of its samples, NONE where there is none.

    `part` is another where its keys are, or any row of the output.
    """

    path: Path
    name: str
    part: str
    rows: NDArray[np.int64]


def list_tars(folder: Path) -> list[Path]:
    """All tars below a folder; ConfigError where there is none."""
    found = sorted(folder.rglob("*.tar"))
    if not found:
        raise ConfigError(f"like: expected a folder with tars, got {folder}")
    return found


def index_rows(shards: list[Shard], columns: Columns) -> NDArray[np.void]:
    """A DIGEST of each row with an embedding, by key; OutputError for two rows with one key."""
    digests = bytearray()
    for shard in shards:
        for caption in read_captions(shard, columns):
            if isinstance(caption, Caption):
                ends = caption.row.to_bytes(8, "little"), caption.num_tokens.to_bytes(4, "little")
                digests += b"".join((_hash(make_key(caption.path)), *ends))
    found = np.frombuffer(digests, DIGEST)
    found = found[np.lexsort((found["row"], found["name"][:, 1], found["name"][:, 0]))]
    again = np.flatnonzero((found["name"][1:] == found["name"][:-1]).all(axis=1))
    if len(again):
        rows = f"rows {found['row'][again[0]]} and {found['row'][again[0] + 1]}"
        raise OutputError(
            f"{columns.path}: expected a key of its own for each row, got one of {rows}, and {len(again)} in all"
        )
    return found


def find_rows(index: NDArray[np.void], keys: list[str]) -> NDArray[np.int64]:
    """(K,) places in the index of rows with these keys, NONE where there is none."""
    wanted = np.frombuffer(b"".join(map(_hash, keys)), "<u8").reshape(-1, 2)
    if not len(index):
        return np.full(len(keys), NONE, np.int64)
    places = np.minimum(np.searchsorted(index["name"][:, 0], wanted[:, 0]), len(index) - 1)
    return np.where((index["name"][places] == wanted).all(axis=1), places, NONE)


def follow_tars(
    folder: Path, index: NDArray[np.void], *, may_miss: bool, longest: int, marks: str = ""
) -> Iterator[FollowedTar]:
    """The rows of each tar's samples, in an output whose shards have these `marks`; OutputError for one without a row
    unless it `may_miss`, or with more tokens than `longest`, if that is not 0.
    """
    for path in list_tars(folder):
        keys = read_keys(path)
        places = find_rows(index, keys)
        absent = np.flatnonzero(places == NONE)
        if len(absent) and not may_miss:
            shown = ", ".join(repr(keys[number]) for number in absent[:SHOWN])
            raise OutputError(
                f"{path}: expected a row with an embedding for each of {len(keys)} samples, "
                f"got none for {len(absent)}: {shown}; --option missing=skip leaves them out"
            )
        tokens = np.where(places == NONE, 0, index["tokens"][places]) if len(index) else np.zeros(len(keys))
        if longest and len(keys) and tokens.max() > longest:
            key = keys[int(tokens.argmax())]
            raise OutputError(f"{path}: {key!r}: it has {int(tokens.max())} rows, and pad_to is {longest}")
        rows = np.where(places == NONE, NONE, index["row"][places]) if len(index) else places
        name = path.relative_to(folder).as_posix()
        part = hashlib.sha256(json.dumps([marks, name, keys]).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        yield FollowedTar(path=path, name=name, part=part, rows=rows)


def _hash(key: str) -> bytes:
    return blake2b(key.encode(), digest_size=16).digest()
