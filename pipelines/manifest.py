"""What is known of each committed unit, and the end of a job: stale shards aside, manifest, `_SUCCESS`.

A unit's record stands in its shard's footer, so nothing is lost when a run is; the log under `_manifest/` only
saves reading every footer again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources import SourceFile
from pipelines.store import Store
from pipelines.units import PlannedFile, Unit
from t5enc.errors import DriverError, OutputError
from t5enc.output import LOG, MANIFEST, PLAN, STALE, SUCCESS, is_shard

RECORD_KEY = b"t5enc.unit"
# Two kinds of objects in the log: records, a line each, and names of which it must not be believed.
NOTED = ".jsonl"
STRUCK_OUT = ".struck_out.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRecord:
    """One row of the manifest: a shard and what is in it."""

    name: str
    source: str
    first_row: int
    input_rows: int
    captions: int
    encoded: int
    errors: int
    died: int
    truncated: int
    tokens: int
    longest: int
    content: str
    size: int = 0

    @classmethod
    def from_json(cls, data: bytes) -> UnitRecord:
        """The record of a footer or a log line."""
        return cls(**json.loads(data))


FIELDS = tuple(entry.name for entry in dataclasses.fields(UnitRecord))
SCHEMA = pa.schema(
    [
        pa.field(name, pa.string() if name in ("name", "source", "content") else pa.int64(), nullable=False)
        for name in FIELDS
    ]
)
PLAN_SCHEMA = pa.schema(
    [("source", pa.string()), ("size", pa.int64()), ("num_rows", pa.int64()), ("digest", pa.string())]
)


def read_records(store: Store, units: Mapping[str, Unit], *, retry_errors: bool = False) -> dict[str, UnitRecord]:
    """Records of the planned units that are committed, by shard name in the plan's order.

    A shard that the log does not know is known by its footer. One that is damaged, or with `retry_errors` holds a
    caption that died, is put aside and has no record. What is to be redone is struck out of the log.
    """
    sizes = dict(store.list())
    logged = read_log(store)
    there = [name for name in units if name in sizes]
    known = {name: logged[name] for name in there if name in logged and logged[name].size == sizes[name]}
    found = known | _read_footers(store, [name for name in there if name not in known])
    kept = {name: found[name] for name in there if name in found and not (retry_errors and found[name].died)}
    aside = [name for name in there if name not in kept]
    strike_out(store, [name for name in units if name in logged and name not in kept and name not in aside])
    if aside:
        store.delete(SUCCESS)
        put_aside(store, aside)
    return kept


def _read_footers(store: Store, names: Sequence[str]) -> dict[str, UnitRecord]:
    """Records of those shards that are not damaged."""
    with ThreadPoolExecutor(16) as pool:
        records = zip(names, pool.map(partial(read_footer_record, store), names), strict=True)
        return {name: record for name, record in records if record is not None}


def read_footer_record(store: Store, name: str) -> UnitRecord | None:
    """A shard's own record, or None where the shard is damaged or gone.

    A store that does not answer is no damage: OutputError, and the shard stays.
    """
    try:
        with store.open(name) as file:
            size = file.size()
            footer = _read_footer_bytes(file, size)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError(f"{name}: cannot be read: {error}") from error
    try:
        metadata = pq.read_metadata(pa.BufferReader(footer))
        record = UnitRecord.from_json(metadata.metadata[RECORD_KEY])
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError):
        return None
    if metadata.num_rows != record.captions or record.name != name:
        return None
    return dataclasses.replace(record, size=size)


def _read_footer_bytes(file: Any, size: int) -> bytes:
    """The footer with its length and magic, as far as they are there; whether they are sound is for Parquet to say."""
    tail = file.read_at(min(8, size), max(0, size - 8))
    length = min(size, int.from_bytes(tail[:4], "little") + 8)
    return bytes(file.read_at(length, size - length))


def read_log(store: Store) -> dict[str, UnitRecord]:
    """Records that earlier runs noted, but for the names struck out; a torn line is passed over.

    It saves reading footers and decides nothing: whatever it does not say, a shard's footer does.
    """
    struck_out = read_struck_out(store)
    if struck_out is None:
        return {}
    lines = [line for name in _list_log(store, NOTED) for line in store.read(name).splitlines()]
    records = [record for line in lines if (record := _parse(line)) is not None]
    return {record.name: record for record in records if record.name not in struck_out}


def read_struck_out(store: Store) -> set[str] | None:
    """Names that were struck out of the log, None where a damaged list may have held any."""
    try:
        return {name for entry in _list_log(store, STRUCK_OUT) for name in json.loads(store.read(entry))}
    except ValueError:
        return None


def _list_log(store: Store, kind: str) -> list[str]:
    return [name for name, _ in store.list(LOG) if name.endswith(kind)]


def _parse(line: bytes) -> UnitRecord | None:
    try:
        return UnitRecord.from_json(line)
    except (ValueError, TypeError):
        return None


def append_log(store: Store, records: Sequence[UnitRecord]) -> None:
    """Note records as one new object of the log."""
    if records:
        lines = b"\n".join(json.dumps(asdict(record)).encode() for record in records)
        store.create(f"{LOG}/{uuid.uuid4().hex}{NOTED}", lines)


def strike_out(store: Store, names: Sequence[str]) -> None:
    """Never again trust what the log says of these shards.

    A shard written anew has the size of the one before it, and can still differ from it in its last bits.
    """
    if names:
        store.create(f"{LOG}/{uuid.uuid4().hex}{STRUCK_OUT}", json.dumps(names).encode())


def put_aside(store: Store, names: Sequence[str]) -> None:
    """Move shards that are damaged or no longer planned out of the way, without losing them."""
    strike_out(store, names)
    for name in names:
        store.move(name, f"{STALE}/{name}.{uuid.uuid4().hex[:8]}")


def write_plan(store: Store, files: Iterable[PlannedFile]) -> None:
    """Note which inputs a job encoded, for `fsck`."""
    rows = [{"source": f.file.source, "size": f.file.size, "num_rows": f.num_rows, "digest": f.digest} for f in files]
    store.replace(PLAN, to_parquet(pa.Table.from_pylist(rows, PLAN_SCHEMA)))


def read_plan(store: Store) -> list[PlannedFile]:
    """What `write_plan` noted: enough to cut the same units again, not to read them."""
    return [
        PlannedFile(
            file=SourceFile(source=row["source"], path="", size=row["size"], partitions=()),
            num_rows=row["num_rows"],
            row_group_rows=(),
            digest=row["digest"],
        )
        for row in pq.read_table(pa.BufferReader(store.read(PLAN))).to_pylist()
    ]


def finish(
    store: Store,
    files: Iterable[PlannedFile],
    units: Sequence[Unit],
    records: dict[str, UnitRecord],
    fingerprint: str,
) -> None:
    """End a job: shards outside the plan aside, then the plan, the manifest, and `_SUCCESS`. Can be repeated.

    An output that says all this already stays finished throughout. A shard that was put aside since its record was
    made has another record now. DriverError where a shard is not there, or not as its record says.
    """
    struck_out = read_struck_out(store)
    records = records | _read_footers(store, [u.name for u in units if struck_out is None or u.name in struck_out])
    sizes = {name: size for name, size in store.list() if is_shard(name)}
    _check_committed(units, records, sizes)
    manifest = _make_manifest(units, records, fingerprint)
    is_finished = _is_finished(store, manifest)
    if not is_finished:
        store.delete(SUCCESS)
    planned = {unit.name for unit in units}
    put_aside(store, [name for name in sizes if name not in planned])
    write_plan(store, files)
    if not is_finished:
        store.replace(MANIFEST, manifest)
        store.replace(SUCCESS, _make_success(units, records, fingerprint, manifest))
    store.sweep()


def _check_committed(units: Sequence[Unit], records: Mapping[str, UnitRecord], sizes: Mapping[str, int]) -> None:
    bad = [unit.name for unit in units if unit.name not in records or records[unit.name].size != sizes.get(unit.name)]
    if bad:
        raise DriverError(
            f"{len(bad)} shards are not in the output as this run left them, the first is {bad[0]}; "
            f"run the same command again"
        )


def _make_manifest(units: Sequence[Unit], records: Mapping[str, UnitRecord], fingerprint: str) -> bytes:
    table = pa.Table.from_pylist([asdict(records[unit.name]) for unit in units], SCHEMA)
    return to_parquet(table.replace_schema_metadata({"fingerprint": fingerprint}))


def _make_success(units: Sequence[Unit], records: Mapping[str, UnitRecord], fingerprint: str, manifest: bytes) -> bytes:
    content = {
        "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
        "fingerprint": fingerprint,
        "totals": sum_records(records[unit.name] for unit in units),
    }
    return json.dumps(content, indent=2).encode()


def _is_finished(store: Store, manifest: bytes) -> bool:
    """Whether the output has this manifest, and a `_SUCCESS` for it."""
    try:
        success = json.loads(store.read(SUCCESS))
        return bool(
            store.read(MANIFEST) == manifest and success["manifest_sha256"] == hashlib.sha256(manifest).hexdigest()
        )
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return False


def sum_records(records: Iterable[UnitRecord]) -> dict[str, int]:
    """Totals over units."""
    names = ("input_rows", "captions", "encoded", "errors", "died", "truncated", "tokens", "size")
    totals = dict.fromkeys(("shards", *names, "longest"), 0)
    for record in records:
        totals["shards"] += 1
        totals["longest"] = max(totals["longest"], record.longest)
        for name in names:
            totals[name] += getattr(record, name)
    return totals


def to_parquet(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]
