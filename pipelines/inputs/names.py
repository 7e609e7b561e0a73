"""The names that input files have in the output: their paths below their own input's root.

What else is given has no bearing on a name, unless two files would have the same one: then both get more of their
paths. A file that an earlier run named keeps its name, so that its units stay what they were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, slots=True)
class Content:
    """What a file is, wherever it lies: bytes, and the digest of its footer."""

    size: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """The last run that gave a name to a content, and the columns that the output keeps: a partition may be one."""

    names: Mapping[str, Mapping[Content, int]]
    columns: Collection[str]


def own_root(folder: str) -> str:
    """The root of an input folder: above its last parts of the form `key=value`, which are partitions of its files."""
    while is_partition(folder.rpartition("/")[2]):
        folder = folder.rpartition("/")[0]
    return folder


def is_partition(segment: str) -> bool:
    """Whether the name of a folder says `key=value`."""
    return "=" in segment[1:]


def read_partitions(source: str) -> tuple[tuple[str, str | None], ...]:
    """What the folders of a source say as `key=value`, unquoted."""
    pairs = (segment.split("=", 1) for segment in source.split("/")[:-1] if is_partition(segment))
    return tuple((unquote(key), None if value == NULL_PARTITION else unquote(value)) for key, value in pairs)


def escape(path: str) -> str:
    """A path as text: bytes of it that are no UTF-8 as %XX."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "".join(f"%{ord(c) - 0xDC00:02X}" if "\udc80" <= c <= "\udcff" else c for c in path)
    return path


def choose_names(
    paths: Sequence[str],
    depths: Sequence[int],
    contents: Sequence[Content | None] = (),
    remembered: Remembered | None = None,
) -> list[str]:
    """A name for each of some paths, which differ: its last `depths` parts, or more where another has the same.

    A file of which `remembered` has the content under some end of its path is called so: as the latest run had it,
    and of several such names by the longest.
    """
    chosen = _name_apart(paths, depths, {})
    if remembered is None or not remembered.names:
        return chosen
    kept: dict[int, str] = {}
    taken: set[str] = set()
    for _, name, _, place in sorted(_find_remembered(paths, chosen, contents, remembered)):
        if place not in kept and name not in taken:
            kept[place] = name
            taken.add(name)
    return _name_apart(paths, depths, kept)


def _find_remembered(
    paths: Sequence[str], chosen: Sequence[str], contents: Sequence[Content | None], remembered: Remembered
) -> Iterator[tuple[tuple[int, int, bool], str, str, int]]:
    """Names that the output has for a file where they say the same of it, in a form that sorts the best one first.

    The last part is the file's place. Ties of equal files are broken by what both would be called otherwise.
    """
    for place, (path, content) in enumerate(zip(paths, contents, strict=True)):
        for name in _ends(path):
            run = None if content is None else remembered.names.get(name, {}).get(content)
            if run is not None and _says_same(name, chosen[place], remembered.columns):
                yield (-run, -name.count("/"), name != chosen[place]), name, chosen[place], place


def _ends(path: str) -> Iterator[str]:
    """Every run of a path's last parts, the file's name first."""
    parts = escape(path).strip("/").split("/")
    return ("/".join(parts[start:]) for start in range(len(parts) - 1, -1, -1))


def _says_same(name: str, other: str, columns: Collection[str]) -> bool:
    """Whether two names give a file's rows the same values of partitions that are kept."""
    one, two = dict(read_partitions(name)), dict(read_partitions(other))
    return all(one.get(key) == two.get(key) and (key in one) == (key in two) for key in columns)


def _name_apart(paths: Sequence[str], depths: Sequence[int], kept: Mapping[int, str]) -> list[str]:
    """The names of those that are not `kept`, each as short as can be at its depth, apart from all others."""
    taken = set(kept.values())
    parts = [escape(path).strip("/").split("/") for path in paths]
    used = list(depths)
    names = [kept.get(place) or _end(parts[place], used[place]) for place in range(len(paths))]
    clashing = list(range(len(paths)))
    while clashing:
        counts = Counter(names)
        clashing = [i for i in range(len(paths)) if i not in kept and (counts[names[i]] > 1 or names[i] in taken)]
        for place in clashing:
            used[place] += 1
            names[place] = _end(parts[place], used[place])
    return names


def _end(parts: Sequence[str], depth: int) -> str:
    """The last parts; where a path has no more of them, a number before it."""
    return "/".join([*([f"_{depth}"] if depth > len(parts) else []), *parts[-depth:]])
