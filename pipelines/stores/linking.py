"""An object of one store in another: linked on one disk, so that nothing is written, and copied elsewhere."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from typing import Any

from pipelines.stores.store import LocalStore, Store


def link_or_copy(origin: Store, name: str, store: Store, target: str) -> bool:
    """Have an object of `origin` under a name of `store`, if that is free; whether it was linked, or is there already.

    FileNotFoundError where there is no such object.
    """
    if isinstance(origin, LocalStore) and isinstance(store, LocalStore) and store.link(target, origin.root / name):
        return True
    with _read(origin, name) as data:
        store.create(target, data)
    return False


@contextlib.contextmanager
def _read(origin: Store, name: str) -> Iterator[Any]:
    """The bytes of an object; of one on a disk only those are in memory that are being copied."""
    if not isinstance(origin, LocalStore) or not origin.size(name):
        yield origin.read(name)
        return
    with open(origin.root / name, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


def is_linked(origin: Store, store: Store, name: str) -> bool:
    """Whether an object of a name is there, and one and the same file in both stores."""
    if not isinstance(origin, LocalStore) or not isinstance(store, LocalStore):
        return False
    try:
        return (origin.root / name).samefile(store.root / name)
    except FileNotFoundError:
        return False
