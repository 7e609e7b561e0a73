"""The names that input files have in the output: their paths below their own input's root.

What else is given has no bearing on a name, unless two files would have the same one: then both get more of their
paths. A file that an earlier run named keeps its name, so that its units stay what they were.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from urllib.parse import unquote

NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, slots=True)
class Content:
    """What a file is, wherever it lies: bytes, and the digest of its footer."""

    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Given:
    """The last run that gave a name to a content, and the hash of the path where that lay: none where it was moved."""

    run: int
    place: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """Who had a name, and the columns that the output keeps: a partition may be one."""

    names: Mapping[str, Mapping[Content, Given]]
    columns: Collection[str]


def hash_path(path: str) -> str:
    """What tells a path from others, without saying it."""
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:16]


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
    avoided: Collection[str] = (),
) -> list[str]:
    """A name for each of some paths, which differ: its last `depths` parts, or more where another has the same.

    A file of which `remembered` has the content under some end of its path is called so: as the latest run had it,
    and of several such names by the longest. But for names that are another's own; and where files of one content may
    both have had a name, it is that one's which lies where it was, or nobody's. No name is one of those `avoided`.
    """
    own = _name_apart(paths, depths, avoided)
    if remembered is None or not remembered.names:
        return own
    kept = _keep_names(paths, own, contents, remembered, avoided)
    # Whoever may not keep its own name must not have it either: another's rows may be there.
    lost = {
        name
        for place, (name, content) in enumerate(zip(own, contents, strict=True))
        if place not in kept and content is not None and content in remembered.names.get(name, {})
    }
    if lost:
        return choose_names(paths, depths, contents, remembered, {*avoided, *lost})
    return [kept.get(place, name) for place, name in enumerate(own)]


def _keep_names(
    paths: Sequence[str],
    own: Sequence[str],
    contents: Sequence[Content | None],
    remembered: Remembered,
    avoided: Collection[str],
) -> dict[int, str]:
    """The remembered names of files by their places, the best first."""
    owners = {name: place for place, name in enumerate(own)}
    kept: dict[int, str] = {}
    taken = set(avoided)
    runs: dict[int, int] = {}
    claims = sorted(_find_claims(paths, contents, remembered))
    proven = {(run, place): name for run, _, name, place, is_there in claims if is_there}
    for (run, _, name), group in groupby(claims, itemgetter(0, 1, 2)):
        # A file that had another name in that run is not the one that had this.
        rivals = [
            (place, is_there)
            for *_, place, is_there in group
            if runs.get(place) != run and proven.get((run, place), name) == name
        ]
        (place, _), *others = [rival for rival in rivals if rival[1]] or rivals or [(-1, False)]
        is_free = place >= 0 and place not in kept and name not in taken and owners.get(name, place) == place
        if is_free and not others and _says_same(name, own[place], remembered.columns):
            kept[place], runs[place] = name, run
            taken.add(name)
    return kept


def _find_claims(
    paths: Sequence[str], contents: Sequence[Content | None], remembered: Remembered
) -> Iterator[tuple[int, int, str, int, bool]]:
    """Names that files may have had, the best first when sorted; the file's place, and whether it lies where it did."""
    for place, (path, content) in enumerate(zip(paths, contents, strict=True)):
        for name in _ends(path):
            given = None if content is None else remembered.names.get(name, {}).get(content)
            if given is not None:
                yield -given.run, -name.count("/"), name, place, given.place == hash_path(path)


def _ends(path: str) -> Iterator[str]:
    """Every run of a path's last parts, the file's name first."""
    parts = escape(path).strip("/").split("/")
    return ("/".join(parts[start:]) for start in range(len(parts) - 1, -1, -1))


def _says_same(name: str, other: str, columns: Collection[str]) -> bool:
    """Whether two names give a file's rows the same values of partitions that are kept."""
    one, two = dict(read_partitions(name)), dict(read_partitions(other))
    return all(one.get(key) == two.get(key) and (key in one) == (key in two) for key in columns)


def _name_apart(paths: Sequence[str], depths: Sequence[int], avoided: Collection[str]) -> list[str]:
    """A name for each, as short as can be at its depth, apart from all others and none of those `avoided`."""
    parts = [escape(path).strip("/").split("/") for path in paths]
    used = list(depths)
    names = [_end(parts[place], used[place]) for place in range(len(paths))]
    clashing = list(range(len(paths)))
    while clashing:
        counts = Counter(names)
        clashing = [place for place, name in enumerate(names) if counts[name] > 1 or name in avoided]
        for place in clashing:
            used[place] += 1
            names[place] = _end(parts[place], used[place])
    return names


def _end(parts: Sequence[str], depth: int) -> str:
    """The last parts; where a path has no more of them, a number before it."""
    return "/".join([*([f"_{depth}"] if depth > len(parts) else []), *parts[-depth:]])
