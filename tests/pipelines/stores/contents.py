"""What lies in a store, and in a folder."""

from __future__ import annotations

from pathlib import Path

from pipelines.stores.store import Store


def names(store: Store) -> set[str]:
    return {name for name, _ in store.list()}


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
