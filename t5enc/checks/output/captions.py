"""The captions of rows, read again from the files that were encoded, where an output did not keep them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import exists
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from t5enc.errors import SourceError
from t5enc.storage.filesystems import find_filesystem, hide_credentials


def read_text(value: Any, caption_index: int) -> str | None:
    """The caption in a value of a text column: itself, or one of a list; None where it is no text."""
    if isinstance(value, list):
        value = value[caption_index] if caption_index < len(value) else None
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    return value if isinstance(value, str) else None


def read_list(column: Any) -> list[Any]:
    """The values of a column in Python; text that is no UTF-8 is None."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    return column.to_pylist()  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class _File:
    """An input file; `name` is the one below the root that was given, as an output calls its source."""

    filesystem: Any
    path: str
    name: str


class CaptionFiles:
    """Input files by their names in an output; of each the row group that was asked for last is kept."""

    def __init__(self, paths: Sequence[str | os.PathLike[str]], text_column: str) -> None:
        """List files, or folders of them, each PATH or NAME=PATH; SourceError for a path that holds none.

        NAME stands before the files' names, as a merge puts it before those of an output.
        """
        self.text_column = text_column
        self.files = [found for path in paths for found in _list_files(*_split(os.fspath(path)))]
        self._source = ""
        self._file: Any = None
        self._group = -1
        self._values: list[Any] = []

    def find(self, source: str, row: int, caption_index: int) -> str | None:
        """A caption, None where the row has none; SourceError for a file or a row that is not there."""
        if source != self._source or self._file is None:
            self._open(source)
        starts = self._starts
        if not 0 <= row < starts[-1]:
            raise SourceError(f"{source}: expected row {row}, got a file of {starts[-1]} rows")
        group = int(np.searchsorted(starts, row, "right")) - 1
        if group != self._group:
            self._values = self._read(source, group)
            self._group = group
        return read_text(self._values[row - int(starts[group])], caption_index)

    def _open(self, source: str) -> None:
        filesystem, path = self._match(source)
        try:
            file = pq.ParquetFile(path, filesystem=filesystem)
        except (OSError, pa.ArrowException) as error:
            raise SourceError(f"{path}: expected a Parquet file, got: {error}") from error
        if self.text_column not in file.schema_arrow.names:
            raise SourceError(f"{path}: expected a text column {self.text_column!r}, got none")
        groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(groups)]).astype(np.int64)
        self._file, self._source, self._group = file, source, -1

    def _match(self, source: str) -> tuple[Any, str]:
        """The file that is called as a source below its root; else the one whose path ends so."""
        found = [file for file in self.files if file.name == source]
        found = found or [file for file in self.files if f"/{file.path}".endswith(f"/{source}")]
        if len(found) != 1:
            folder = str(PurePosixPath(source).parent)
            told = f"; if a merge put {folder!r} before its name: --captions {folder}=PATH" if folder != "." else ""
            raise SourceError(f"captions: expected one file of {source!r}, got {len(found)}{told}")
        return found[0].filesystem, found[0].path

    def _read(self, source: str, group: int) -> list[Any]:
        try:
            return read_list(self._file.read_row_group(group, columns=[self.text_column])[self.text_column])
        except (OSError, pa.ArrowException) as error:
            raise SourceError(f"{source}: row group {group}: expected readable pages, got: {error}") from error


def _split(text: str) -> tuple[str, str]:
    """The name that was given, or nothing, and the path, which may have `=` in it."""
    name, mark, path = text.partition("=")
    is_named = mark and name and path and "://" not in name and not name.startswith(("/", ".")) and not exists(text)
    return (f"{name}/", path) if is_named else ("", text)


def _list_files(prefix: str, path: str) -> list[_File]:
    filesystem, root = find_filesystem(path)
    info = filesystem.get_file_info(root)
    if info.type == pafs.FileType.File:
        return [_File(filesystem, root, prefix + PurePosixPath(root).name)]
    selector = pafs.FileSelector(root, recursive=True, allow_not_found=True)
    paths = [one.path for one in filesystem.get_file_info(selector) if one.is_file]
    if not paths:
        raise SourceError(f"{hide_credentials(path)}: expected a file or a folder of files, got none")
    return [_File(filesystem, one, prefix + one.removeprefix(f"{root.rstrip('/')}/")) for one in paths]
