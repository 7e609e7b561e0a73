"""A folder of a store as a store of its own: an output that lies within another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pipelines.stores.store import Store


class Below:
    """The objects of a folder."""

    def __init__(self, store: Store, folder: str) -> None:
        self.store = store
        self.folder = folder

    def list(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """(name, size) of every object, or of those in a folder."""
        prefix = f"{self.folder}/"
        for name, size in self.store.list(prefix + folder if folder else self.folder):
            yield name.removeprefix(prefix), size

    def read(self, name: str) -> bytes:
        """The object's bytes."""
        return self.store.read(f"{self.folder}/{name}")

    def open(self, name: str) -> Any:
        """The object as a random-access file."""
        return self.store.open(f"{self.folder}/{name}")

    def size(self, name: str) -> int | None:
        """The object's size in bytes, or None."""
        return self.store.size(f"{self.folder}/{name}")

    def create(self, name: str, data: Any) -> bool:
        """Store an object under a name that is free."""
        return self.store.create(f"{self.folder}/{name}", data)

    def replace(self, name: str, data: Any) -> None:
        """Store an object, whatever was there before."""
        self.store.replace(f"{self.folder}/{name}", data)

    def move(self, name: str, target: str) -> None:
        """Rename an object within the folder."""
        self.store.move(f"{self.folder}/{name}", f"{self.folder}/{target}")

    def delete(self, name: str) -> None:
        """Remove an object."""
        self.store.delete(f"{self.folder}/{name}")

    def list_unnamed(self) -> dict[str, float]:
        """None: what is half written in a folder, only a store of its own tells."""
        return {}

    def sweep(self, unnamed: Iterable[str]) -> None:
        """Nothing, for there are none."""
