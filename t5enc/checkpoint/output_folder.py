"""A checkpoint's folder written whole or not at all: files are made aside and moved when all are on the disk."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from t5enc.errors import OutputError
from t5enc.machine.disks import sync_path

ASIDE = ".converting-"


def check_output(folder: Path, *, overwrite: bool) -> None:
    """Raise OutputError for a file in its place, or a folder that is not empty and is not to be overwritten."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: expected a folder to write to, got a file")
    held = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if held and not overwrite:
        shown = ", ".join(held[:5])
        raise OutputError(f"{folder}: expected an empty folder (or overwrite), got one that holds {shown}")


@contextlib.contextmanager
def commit_files(folder: Path, written: Sequence[str]) -> Iterator[Path]:
    """A folder to write to, whose files move into `folder` when all are there; on errors nothing of it stays.

    What `written` names, by patterns, is replaced. Raises OutputError.
    """
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=ASIDE, dir=folder))
        try:
            yield aside
            for path in aside.rglob("*"):
                sync_path(path)
            _replace_files(aside, folder, written)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            if is_new and not any(folder.iterdir()):
                folder.rmdir()
    except OSError as error:
        raise OutputError(f"{folder}: {error}") from error


def _replace_files(aside: Path, folder: Path, written: Sequence[str]) -> None:
    """config.json goes first and comes last: without it nobody takes the folder for a checkpoint."""
    (folder / "config.json").unlink(missing_ok=True)
    for pattern in (*written, f"{ASIDE}*"):
        for path in folder.glob(pattern):
            if path.is_file() or path.is_symlink():
                path.unlink()
            elif path != aside:
                shutil.rmtree(path)
    for path in sorted(aside.iterdir(), key=lambda path: path.name == "config.json"):
        path.replace(folder / path.name)
    sync_path(folder)
