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

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.store import Store
from pipelines.units import PlannedFile, Unit
from t5enc.errors import OutputError
from t5enc.output import LOG, MANIFEST, PLAN, STALE, SUCCESS, is_shard

RECORD_KEY = b"t5enc.unit"


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


def read_records(store: Store, units: Mapping[str, Unit]) -> dict[str, UnitRecord]:
    """Records of the planned units that are committed, by shard name.

    A shard that the log does not know is known by its footer; one that cannot be read is put aside and redone.
    """
    sizes = {name: size for name, size in store.list() if name in units}
    logged = read_log(store)
    known = {name: logged[name] for name, size in sizes.items() if name in logged and logged[name].size == size}
    unknown = [name for name in sizes if name not in known]
    with ThreadPoolExecutor(16) as pool:
        for name, record in zip(unknown, pool.map(lambda name: read_footer_record(store, name), unknown), strict=True):
            if record is None:
                put_aside(store, name)
            else:
                known[name] = record
    return known


def read_footer_record(store: Store, name: str) -> UnitRecord | None:
    """A shard's own record, or None where the shard is damaged."""
    try:
        with store.open(name) as file:
            metadata = pq.ParquetFile(file).metadata
            size = file.size()
        record = UnitRecord.from_json(metadata.metadata[RECORD_KEY])
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError):
        return None
    if metadata.num_rows != record.captions or record.name != name:
        return None
    return dataclasses.replace(record, size=size)


def read_log(store: Store) -> dict[str, UnitRecord]:
    """Records that earlier runs noted; a torn line is passed over, its shard's footer tells the same."""
    records = {}
    for name, _ in store.list():
        if not name.startswith(f"{LOG}/"):
            continue
        for line in store.read(name).splitlines():
            record = _parse(line)
            if record is not None:
                records[record.name] = record
    return records


def _parse(line: bytes) -> UnitRecord | None:
    try:
        return UnitRecord.from_json(line)
    except (ValueError, TypeError):
        return None


def append_log(store: Store, records: Sequence[UnitRecord]) -> None:
    """Note records as one new object of the log."""
    if records:
        lines = b"\n".join(json.dumps(asdict(record)).encode() for record in records)
        store.create(f"{LOG}/{uuid.uuid4().hex}.jsonl", lines)


def put_aside(store: Store, name: str) -> None:
    """Move a shard that is damaged or no longer planned out of the way, without losing it."""
    store.move(name, f"{STALE}/{name}.{uuid.uuid4().hex[:8]}")


def write_plan(store: Store, files: Iterable[PlannedFile]) -> None:
    """Note which inputs this run means, for `fsck`."""
    rows = [{"source": f.file.source, "size": f.file.size, "num_rows": f.num_rows, "digest": f.digest} for f in files]
    schema = pa.schema(
        [("source", pa.string()), ("size", pa.int64()), ("num_rows", pa.int64()), ("digest", pa.string())]
    )
    store.replace(PLAN, to_parquet(pa.Table.from_pylist(rows, schema)))


def finish(store: Store, units: Sequence[Unit], records: Mapping[str, UnitRecord], fingerprint: str) -> None:
    """End a job: put shards outside the plan aside, write the manifest, then `_SUCCESS`. Can be repeated."""
    missing = [unit.name for unit in units if unit.name not in records]
    if missing:
        raise OutputError(f"{len(missing)} units are not committed, the first is {missing[0]}")
    planned = {unit.name for unit in units}
    for name in [name for name, _ in store.list() if is_shard(name) and name not in planned]:
        put_aside(store, name)
    table = pa.Table.from_pylist([asdict(records[unit.name]) for unit in units], SCHEMA)
    data = to_parquet(table.replace_schema_metadata({"fingerprint": fingerprint}))
    store.replace(MANIFEST, data)
    totals = sum_records(records[unit.name] for unit in units)
    success = {
        "manifest_sha256": hashlib.sha256(data).hexdigest(),
        "fingerprint": fingerprint,
        "totals": totals,
    }
    store.replace(SUCCESS, json.dumps(success, indent=2).encode())


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
