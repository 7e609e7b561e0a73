"""The input files of a job: what folders, globs and URIs hold, each known by its path below its input's root."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import takewhile
from operator import itemgetter
from typing import Any

import pyarrow.fs as pafs

from pipelines.inputs.listing import Entry, Lister, decode_path, find_lister, holds, is_hidden, path_below
from pipelines.inputs.names import choose_names, escape, own_root, read_partitions
from t5enc.errors import SourceError, show_invisible
from t5enc.storage import filesystems
from t5enc.storage.filesystems import hide_credentials

SUFFIXES = (".parquet", ".parq", ".pq")
LOOKED_FOR = "files named *.parquet, *.parq or *.pq"
MAGIC = re.compile(r"[*?[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One input file; `source` is its name in the output, `modified` nanoseconds after 1970, or 0 for unknown."""

    source: str
    path: str
    size: int
    modified: int = 0
    partitions: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file lies, and how many parts of its path are below its input's root."""

    path: str
    depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Every file once, in the order of sources; what cannot be read, and why; and where each of them lies."""

    files: tuple[SourceFile, ...]
    unreadable: Mapping[str, str]
    places: Mapping[str, Place]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What the inputs of a job name, on one filesystem."""

    filesystem: Any
    resolved: tuple[_Input, ...]

    def list(self) -> Listing:
        """List every file; SourceError for an input that holds none.

        A file that several inputs hold has the outermost root of theirs.
        """
        found: dict[str, Entry] = {}
        roots: dict[str, str] = {}
        for item in self.resolved:
            for entry in _list_input(item):
                found[entry.path] = entry
                roots[entry.path] = min(roots.get(entry.path, item.root), item.root, key=len)
        depths = [path_below(path, roots[path]).count("/") + 1 for path in found]
        return _make_listing([_tell_apart(entry, found) for entry in found.values()], depths)

    @property
    def common_folder(self) -> str:
        """What the folders of all inputs share: format 1 named files by their paths below it."""
        parts = zip(*(item.base.split("/") for item in self.resolved), strict=False)
        return "/".join(same[0] for same in takewhile(lambda names: len(set(names)) == 1, parts))

    def files(self) -> Iterator[SourceFile]:
        """The files of the listing."""
        return iter(self.list().files)

    def find_cover(self, path: str, files: Iterable[SourceFile]) -> str | None:
        """The input folder that is a path or holds it, or the path itself where it holds one of the input's files.

        Through whatever links.
        """
        resolve = find_lister(self.filesystem).resolve
        real = resolve(path)
        for item in self.resolved:
            if item.entry is not None and item.entry.is_folder and holds(resolve(item.path), real):
                return item.path
        folders = {posixpath.dirname(file.path) for file in files}
        return path if any(holds(real, resolve(folder)) for folder in folders) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Input:
    """An input; `base` is its folder, or that which its glob begins in, and `root` what names are below of."""

    given: str
    filesystem: Any
    lister: Lister
    path: str
    entry: Entry | None
    base: str

    @property
    def root(self) -> str:
        return own_root(self.base)


def open_inputs(inputs: Sequence[str], *, storage_options: Mapping[str, Any] | None = None) -> Inputs:
    """Find the filesystem of files, folders, globs or URIs; SourceError for a missing path.

    `storage_options` go to the filesystem that a URI names; local paths need none.
    """
    if not inputs:
        raise SourceError("inputs: expected at least one file, folder or glob, got none")
    resolved = tuple(_resolve(given, storage_options or {}) for given in inputs)
    first = resolved[0]
    for item in resolved:
        if item.filesystem != first.filesystem:
            raise _explain(item.given, f"expected the filesystem of {first.given}, got another one")
    return Inputs(filesystem=first.filesystem, resolved=resolved)


def _resolve(given: str, options: Mapping[str, Any]) -> _Input:
    filesystem, path = open_filesystem(given, options)
    lister = find_lister(filesystem)
    entry = _find(lister, path, given)
    magic = MAGIC.search(path)
    if entry is not None and entry.reason:
        raise _explain(given, entry.reason)
    if entry is not None:
        base = path if entry.is_folder else posixpath.dirname(path)
    elif magic:
        base = posixpath.dirname(path[: magic.start()])
    else:
        raise _explain(given, "expected a file, a folder or a glob, got a path that does not exist")
    return _Input(given=given, filesystem=filesystem, lister=lister, path=path, entry=entry, base=base)


def open_filesystem(uri: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """The pyarrow filesystem of a path or URI, and the path on it (absolute where local)."""
    try:
        filesystem, path = filesystems.open_filesystem(uri, options)
    except (ImportError, OSError, TypeError, ValueError) as error:
        raise _explain(uri, f"expected a filesystem that can be opened, got: {error}") from error
    is_local = isinstance(filesystem, pafs.LocalFileSystem)
    return filesystem, decode_path(os.fsencode(path)) if is_local else path


def _explain(given: str, what: str) -> SourceError:
    """The error of an input, without the keys that its URI may hold."""
    return SourceError(hide_credentials(f"{show_invisible(given)}: {what}"))


def _tell_apart(entry: Entry, found: Mapping[str, Entry]) -> Entry:
    """The same, or a reason where its name with its bytes shown is another file's."""
    text = escape(entry.path)
    if text == entry.path or text not in found:
        return entry
    reason = f"expected a name in UTF-8, or none that reads like {text} beside it"
    return replace(entry, path=show_invisible(entry.path), reason=reason)


def _make_listing(entries: Sequence[Entry], depths: Sequence[int]) -> Listing:
    names = choose_names([entry.path for entry in entries], depths)
    named = sorted(zip(names, entries, depths, strict=True), key=itemgetter(0))
    return Listing(
        files=tuple(
            make_source(name, entry.path, entry.size, entry.modified) for name, entry, _ in named if not entry.reason
        ),
        unreadable={name: f"{name}: {entry.reason}" for name, entry, _ in named if entry.reason},
        places={name: Place(entry.path, depth) for name, entry, depth in named},
    )


def make_source(source: str, path: str, size: Any, modified: int = 0) -> SourceFile:
    """A file by its name in the output."""
    return SourceFile(source=source, path=path, size=size, modified=modified, partitions=read_partitions(source))


def _list_input(item: _Input) -> list[Entry]:
    if item.entry is not None and not item.entry.is_folder:
        return [item.entry]
    found = list(_walk(item, item.entry) if item.entry is not None else _list_glob(item))
    if not any(not entry.reason for entry in found):
        reason = next((f"{show_invisible(escape(entry.path))}: {entry.reason}" for entry in found), None)
        raise _explain(item.given, reason or f"expected {LOOKED_FOR}, got {_describe(item)}")
    return found


def _walk(item: _Input, folder: Entry) -> Iterator[Entry]:
    return (entry for entry in item.lister.walk(folder) if _may_be_input(entry))


def _may_be_input(entry: Entry) -> bool:
    """A file of a Parquet name; or what may have been one, or a folder of them, and cannot be read."""
    return _is_parquet_name(entry.path) or bool(entry.reason and entry.is_folder)


def _list_glob(item: _Input) -> Iterator[Entry]:
    """A matched folder is read like any folder; a pattern with an extension takes whatever it names."""
    pattern = path_below(item.path, item.base).split("/")
    has_extension = "." in pattern[-1]
    while pattern and pattern[-1] == "**":
        pattern.pop()
    base = _find(item.lister, item.base, item.given)
    for entry in _expand(item, base, pattern) if base is not None else ():
        if entry.is_folder and not entry.reason:
            yield from _walk(item, entry)
        elif has_extension or _may_be_input(entry):
            yield entry


def _expand(item: _Input, entry: Entry, pattern: Sequence[str]) -> Iterator[Entry]:
    """What a glob matches, level by level, so that only folders on its way are listed.

    A folder that leads back is entered where the pattern names it and goes on, for a pattern ends; `**` does not.
    """
    if not pattern or entry.reason:
        if not pattern or entry.is_folder:
            yield entry
        return
    head, *rest = pattern
    if head == "**":
        yield from _expand(item, entry, rest)
    for inner in item.lister.list(entry) if entry.is_folder else ():
        is_below = head == "**"
        if inner.path == entry.path:
            yield inner
        elif not is_below and rest and _matches(inner.name, head):
            yield from _expand(item, replace(inner, reason="") if inner.leads_back else inner, rest)
        elif inner.leads_back and not inner.reason:
            continue
        elif is_below and inner.is_folder and not is_hidden(inner.name):
            yield from _expand(item, inner, pattern)
        elif not is_below and _matches(inner.name, head):
            yield inner


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) and (not is_hidden(name) or pattern[0] == name[0])


def _is_parquet_name(path: str) -> bool:
    return path.lower().endswith(SUFFIXES)


def _describe(item: _Input) -> str:
    base = Entry(path=item.base, is_folder=True, way=(item.base,))
    names = sorted(
        show_invisible(escape(path_below(entry.path, item.base)))
        for entry in item.lister.walk(base)
        if not entry.reason
    )
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"only {', '.join(names[:3])}{more}" if names else "no files at all"


def _find(lister: Lister, path: str, given: str) -> Entry | None:
    try:
        return lister.find(path)
    except (OSError, ValueError) as error:
        raise _explain(given, f"expected a readable path, got: {error}") from error
