"""What sources are called in an output of several: those that two of them have get a name before them.

R rows of a source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.commit.records import UnitRecord, read_metadata
from pipelines.derive.origins import Origin
from t5enc.errors import ConfigError, OutputError
from t5enc.storage import KEY, PREFIX
from t5enc.storage.row_index import MISSING, unpack_rows

ROW, CAPTION_INDEX = f"{PREFIX}row", f"{PREFIX}caption_index"
ROW_KEY = np.dtype([("row", np.int64), ("caption", np.int32), ("key", f"V{KEY.type.byte_width}")])
# Of each output by its place, new names by old ones.
Names = Sequence[Mapping[str, str]]


def name_sources(origins: Sequence[Origin], given: Sequence[str | None]) -> Names:
    """New names of sources that an earlier output has, too: after the name that was `given`, or that of the folder.

    ConfigError where such a source holds the same rows, unless a name was given, and where its new name is taken.
    """
    _refuse_twice(origins, given)
    owners: dict[str, Origin] = {}
    names: list[dict[str, str]] = []
    for origin, name in zip(origins, given, strict=True):
        sources = dict.fromkeys(record.source for record in origin.records)
        renamed: dict[str, str] = {}
        for source in sources:
            if source not in owners:
                continue
            if name is None:
                _refuse_same_rows(owners[source], origin, source)
            renamed[source] = f"{name or origin.name}/{source}"
        for source in sources:
            final = renamed.get(source, source)
            if final in owners or (source in renamed and final in sources):
                raise ConfigError(
                    f"{origin.shown}: expected a new name for {source!r}, which {owners[source].shown} has, too, got "
                    f"{final!r}, which is taken; give another one: NAME={origin.shown}"
                )
        owners |= {renamed.get(source, source): origin for source in sources}
        names.append(renamed)
    return names


def _refuse_twice(origins: Sequence[Origin], given: Sequence[str | None]) -> None:
    """ConfigError for an output that comes twice, also as a part of a merged one, unless that was given a name."""
    whole: dict[str, Origin] = {}
    parts: dict[str, Origin] = {}
    for origin, name in zip(origins, given, strict=True):
        own = origin.job.fingerprint + origin.manifest_sha256
        inner = [part["fingerprint"] + part["manifest_sha256"] for part in origin.parts]
        first = whole.get(own)
        if first is None and name is None:
            first = next((parts[key] for key in (own, *inner) if key in parts), None)
        if first is not None:
            raise ConfigError(
                f"{origin.shown}: expected each output once, got rows of {first.shown} again: the same job and "
                f"manifest, or one that was merged into it"
            )
        whole[own] = origin
        parts |= dict.fromkeys((own, *inner), origin)


def _refuse_same_rows(one: Origin, other: Origin, source: str) -> None:
    """ConfigError where two outputs hold the same caption at the same place of a source."""
    mine, theirs = (_list_records(origin, source) for origin in (one, other))
    contents = {record.content: record for record in mine if record.counts.captions}
    same = next((record for record in theirs if record.content in contents), None)
    place = f"row {same.first_row}" if same else _find_same_row(one, mine, other, theirs)
    if place is not None:
        raise ConfigError(
            f"{other.shown}: expected other rows than those of {one.shown}, got the same: {source!r}, {place}; "
            f"leave them out with `t5enc select`, or give a name where they only look alike: NAME={other.shown}"
        )


def _list_records(origin: Origin, source: str) -> list[UnitRecord]:
    return [record for record in origin.records if record.source == source]


def _find_same_row(one: Origin, mine: Sequence[UnitRecord], other: Origin, theirs: Sequence[UnitRecord]) -> str | None:
    """The first place with the same content key in both; without keys nobody can tell."""
    if not (one.job.has_keys and other.job.has_keys):
        return None
    read_mine, read_theirs = partial(_read_keys, one), partial(_read_keys, other)
    known = np.concatenate([np.empty(0, ROW_KEY), *map(read_mine, mine)])
    for keys in map(read_theirs, theirs):
        same = keys[np.isin(_as_bytes(keys), _as_bytes(known))]
        if len(same):
            return f"row {same[0]['row']}, caption {same[0]['caption']}"
    return None


def _as_bytes(keys: NDArray[np.void]) -> NDArray[np.void]:
    return np.ascontiguousarray(keys).view(f"V{ROW_KEY.itemsize}")


def _read_keys(origin: Origin, record: UnitRecord) -> NDArray[np.void]:
    """(R,) places and content keys of the rows of a shard that have an embedding."""
    rows = _read_rows(origin, record)
    rows = rows.filter(pa.compute.invert(rows[MISSING]))
    keys = np.empty(len(rows), ROW_KEY)
    keys["row"], keys["caption"] = rows[ROW].to_numpy(), rows[CAPTION_INDEX].to_numpy()
    joined = b"".join(rows[KEY.name].to_pylist())
    keys["key"] = np.frombuffer(joined, f"V{KEY.type.byte_width}")
    return keys


def _read_rows(origin: Origin, record: UnitRecord) -> pa.Table:
    found = read_metadata(origin.store, record.name)
    rows = None if found is None else unpack_rows(found[0])
    if rows is None:
        raise OutputError(
            f"{origin.shown}/{record.name}: expected a footer that tells of its rows, got none, or a damaged one; "
            f"look at `t5enc fsck {origin.shown}`"
        )
    return rows
