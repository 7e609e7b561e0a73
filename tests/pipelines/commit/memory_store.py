"""A store in a dictionary, for tests of the commit protocol."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa


class MemoryStore:
    """Objects in a dictionary: for tests of the protocol."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def list(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """(name, size) of every object, or of those in a folder."""
        prefix = f"{folder}/" if folder else ""
        return iter([(name, len(data)) for name, data in sorted(self.objects.items()) if name.startswith(prefix)])

    def read(self, name: str) -> bytes:
        """The object's bytes."""
        if name not in self.objects:
            raise FileNotFoundError(name)
        return self.objects[name]

    def open(self, name: str) -> Any:
        """The object as a random-access file."""
        return pa.BufferReader(self.read(name))

    def size(self, name: str) -> int | None:
        """The object's size in bytes, or None."""
        return len(self.objects[name]) if name in self.objects else None

    def create(self, name: str, data: Any) -> bool:
        """Store an object unless its name is taken."""
        if name in self.objects:
            return False
        self.objects[name] = bytes(data)
        return True

    def replace(self, name: str, data: Any) -> None:
        """Store an object, whatever was there before."""
        self.objects[name] = bytes(data)

    def move(self, name: str, target: str) -> None:
        """Rename an object."""
        if name in self.objects:
            self.objects[target] = self.objects.pop(name)

    def delete(self, name: str) -> None:
        """Remove an object."""
        self.objects.pop(name, None)

    def list_unnamed(self) -> dict[str, float]:
        """None: nothing is left behind in memory."""
        return {}

    def sweep(self, unnamed: Iterable[str]) -> None:
        """Nothing."""
