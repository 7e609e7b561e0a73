"""Tars as webdataset and wids read them: keys, members, the index, and the keys of a tar that is there.

A member is called key, dot, extension, and a sample is a run of members with one key.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from t5enc.errors import OutputError
from t5enc.trainers.format import Pieces

BLOCK = tarfile.BLOCKSIZE
# A name in the one field of a header that wids reads.
LONGEST_NAME = tarfile.LENGTH_NAME
# As webdataset's own writer has them.
MODE, OWNER = 0o444, "bigdata"
# webdataset passes over what is called so.
META = re.compile(r"__[^/]*__($|/)")
MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)
LARGEST = 8 << 30


def make_key(path: str) -> str:
    """The key of a file with this name: all before the first dot of its last part, as webdataset cuts it."""
    folder, slash, file = path.rpartition("/")
    return f"{folder}{slash}{file.partition('.')[0]}"


def check_key(key: str, extension: str) -> str | None:
    """Why a sample cannot have this key in a tar, if it cannot."""
    parts = key.split("/")
    if "" in parts or "." in parts or ".." in parts:
        return "a part of it is empty, `.` or `..`"
    if not key.isprintable():
        return "it holds what cannot be printed"
    if META.match(key) or (key.startswith("__") and extension.endswith("__")):
        return "webdataset passes over names that begin with __…__"
    size = len(f"{key}.{extension}".encode())
    return f"its name has {size} bytes, and wids reads {LONGEST_NAME}" if size > LONGEST_NAME else None


def make_member(name: str, pieces: Pieces) -> list[bytes | memoryview]:
    """A member of a tar: its header, its bytes, and zeros to a whole block. The same bytes whenever it is made."""
    size = sum(len(piece) for piece in pieces)
    if size >= LARGEST:
        raise OutputError(f"{name}: expected a member of less than {LARGEST} bytes, got {size}")
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.uname, info.gname = size, MODE, OWNER, OWNER
    header = info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    return [header, *pieces, bytes(-size % BLOCK)]


def make_end(size: int) -> bytes:
    """What a tar of so many bytes ends with."""
    return bytes(2 * BLOCK + -(size + 2 * BLOCK) % tarfile.RECORDSIZE)


def make_index(shards: Iterable[tuple[str, int]]) -> bytes:
    """The index that wids opens, of tars beside it: their names, and how many samples each has, in order."""
    listed = [{"url": name, "nsamples": samples} for name, samples in shards]
    content = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": listed}
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def read_keys(path: Path) -> list[str]:
    """The keys of a tar's samples in order, as webdataset finds them; OutputError for what is no tar."""
    return [key for key, _ in groupby(_list_keys(path))]


def _list_keys(path: Path) -> Iterator[str]:
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                found = MEMBER.fullmatch(member.name)
                if member.isfile() and found is not None and not META.match(member.name):
                    yield found[1]
    except (OSError, tarfile.TarError) as error:
        raise OutputError(f"{path}: expected a tar, got: {error}") from error
