"""The input files of a job: what folders, globs and URIs hold, each known by its path below the root."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import takewhile
from typing import Any
from urllib.parse import unquote

import pyarrow.fs as pafs

from t5enc.errors import SourceError
from t5enc.storage import filesystems
from t5enc.storage.filesystems import hide_credentials

SUFFIXES = (".parquet", ".parq", ".pq")
LOOKED_FOR = "files named *.parquet, *.parq or *.pq"
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
MAGIC = re.compile(r"[*?[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One input file; `source`, its path below the input root, is its name in the output."""

    source: str
    path: str
    size: int
    partitions: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What the inputs of a job name, on one filesystem and below one root."""

    filesystem: Any
    root: str
    resolved: tuple[_Input, ...]

    def files(self) -> Iterator[SourceFile]:
        """List every file once, by source; SourceError for an input that holds none."""
        found = {info.path: info for item in self.resolved for info in _list_input(item)}
        files = (_source_file(info, self.root) for info in found.values())
        return iter(sorted(files, key=lambda file: file.source))

    def cover(self, path: str, files: Iterable[SourceFile]) -> bool:
        """Whether a path is an input folder or lies below one, or holds one of the input's files."""
        folders = [item.root for item in self.resolved if _is_folder(item.info)]
        below = any(f"{path}/".startswith(f"{folder.rstrip('/')}/") for folder in folders)
        return below or any(file.path.startswith(f"{path}/") for file in files)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Input:
    given: str
    filesystem: Any
    info: Any
    root: str


def open_inputs(inputs: Sequence[str], *, storage_options: Mapping[str, Any] | None = None) -> Inputs:
    """Find the filesystem and root of files, folders, globs or URIs; SourceError for a missing path.

    `storage_options` go to the filesystem that a URI names; local paths need none.
    """
    if not inputs:
        raise SourceError("inputs: expected at least one file, folder or glob, got none")
    resolved = tuple(_resolve(given, storage_options or {}) for given in inputs)
    first = resolved[0]
    for item in resolved:
        if item.filesystem != first.filesystem:
            raise _explain(item.given, f"expected the filesystem of {first.given}, got another one")
    root = _common_folder([item.root for item in resolved])
    return Inputs(filesystem=first.filesystem, root=root, resolved=resolved)


def _resolve(given: str, options: Mapping[str, Any]) -> _Input:
    filesystem, path = open_filesystem(given, options)
    info = _get_info(filesystem, path, given)
    magic = MAGIC.search(path)
    if _is_folder(info):
        root = path
    elif info.is_file:
        root = posixpath.dirname(path)
    elif magic:
        root = posixpath.dirname(path[: magic.start()])
    else:
        raise _explain(given, "expected a file, a folder or a glob, got a path that does not exist")
    return _Input(given=given, filesystem=filesystem, info=info, root=root)


def open_filesystem(uri: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """The pyarrow filesystem of a path or URI, and the path on it (absolute where local)."""
    try:
        return filesystems.open_filesystem(uri, options)
    except (ImportError, OSError, TypeError, ValueError) as error:
        raise _explain(uri, f"expected a filesystem that can be opened, got: {error}") from error


def _explain(given: str, what: str) -> SourceError:
    """The error of an input, without the keys that its URI may hold."""
    return SourceError(hide_credentials(f"{given}: {what}"))


def _common_folder(roots: Sequence[str]) -> str:
    paths = [root.split("/") for root in roots]
    ends = zip(min(paths), max(paths), strict=False)  # what these two share, all between them share
    common = "/".join(name for name, other in takewhile(lambda pair: pair[0] == pair[1], ends))
    return common or ("/" if roots[0].startswith("/") else "")


def _source_file(info: Any, root: str) -> SourceFile:
    source = _path_below(info.path, root)
    return SourceFile(source=source, path=info.path, size=info.size, partitions=read_partitions(source))


def read_partitions(source: str) -> tuple[tuple[str, str | None], ...]:
    """What the folders of a source say as `key=value`, unquoted."""
    pairs = (segment.split("=", 1) for segment in source.split("/")[:-1] if "=" in segment[1:])
    return tuple((unquote(key), None if value == NULL_PARTITION else unquote(value)) for key, value in pairs)


def _list_input(item: _Input) -> list[Any]:
    if item.info.is_file:
        return [item.info]
    found = list(_walk(item, item.root) if _is_folder(item.info) else _list_glob(item))
    if not found:
        raise _explain(item.given, f"expected {LOOKED_FOR}, got {_describe(item)}")
    return found


def _walk(item: _Input, folder: str) -> Iterator[Any]:
    for info in _get_entries(item, folder, recursive=True):
        names = _path_below(info.path, folder).split("/")
        if info.is_file and _is_parquet_name(info.path) and not any(map(_is_hidden, names)):
            yield info


def _list_glob(item: _Input) -> Iterator[Any]:
    """A matched folder is read like any folder; a pattern with an extension takes whatever it names."""
    pattern = _path_below(item.info.path, item.root).split("/")
    has_extension = "." in pattern[-1]
    while pattern and pattern[-1] == "**":
        pattern.pop()
    for info in _expand(item, _get_info(item.filesystem, item.root, item.given), pattern):
        if _is_folder(info):
            yield from _walk(item, info.path)
        elif has_extension or _is_parquet_name(info.path):
            yield info


def _expand(item: _Input, info: Any, pattern: Sequence[str]) -> Iterator[Any]:
    """What a glob matches, level by level, so that only folders on its way are listed."""
    if not pattern:
        yield info
        return
    head, *rest = pattern
    if head == "**":
        yield from _expand(item, info, rest)
    for entry in _get_entries(item, info.path, recursive=False) if _is_folder(info) else ():
        if head == "**" and _is_folder(entry) and not _is_hidden(entry.base_name):
            yield from _expand(item, entry, pattern)
        elif head != "**" and _matches(entry.base_name, head):
            yield from _expand(item, entry, rest)


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) and (not _is_hidden(name) or pattern[0] == name[0])


def _is_hidden(name: str) -> bool:
    """Left-overs and markers; `_key=value` is a partition all the same, as in Spark."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def _is_parquet_name(path: str) -> bool:
    return path.lower().endswith(SUFFIXES)


def _path_below(path: str, root: str) -> str:
    return path.removeprefix(root).lstrip("/")


def _is_folder(info: Any) -> bool:
    return bool(info.type == pafs.FileType.Directory)


def _describe(item: _Input) -> str:
    entries = _get_entries(item, item.root, recursive=True)
    names = sorted(_path_below(info.path, item.root) for info in entries if info.is_file)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"only {', '.join(names[:3])}{more}" if names else "no files at all"


def _get_info(filesystem: Any, path: str, given: str) -> Any:
    try:
        return filesystem.get_file_info(path)
    except OSError as error:
        raise _explain(given, f"expected a readable path, got: {error}") from error


def _get_entries(item: _Input, folder: str, *, recursive: bool) -> list[Any]:
    try:
        return list(item.filesystem.get_file_info(pafs.FileSelector(folder, recursive=recursive)))
    except OSError as error:
        raise _explain(item.given, f"expected a folder that can be listed, got: {error}") from error
