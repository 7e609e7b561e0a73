"""The outputs that another one is made of: their jobs, their shards, and what all of them must have in common."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.commit.ownership import compare
from pipelines.commit.records import UnitRecord, parse_record
from pipelines.job import FrozenJob, schema_to_text
from pipelines.stores.store import Store, open_store
from t5enc.errors import JobMismatchError, OutputError
from t5enc.output import OutputFolder, open_output
from t5enc.recipes.conditioning import Conditioning
from t5enc.storage.filesystems import hide_credentials
from t5enc.storage.layout import ASKED, JOB, MANIFEST

# What an identity says of where rows come from, and of what lies beside embeddings: no two outputs need be alike.
OF_ROWS = ("keep_columns", "cast", "caption_choice", "duplicates", "rows_per_shard", "imported", "derived")
# Where the model of an output is: what its embeddings can be computed with again.
OF_PLACE = ("model", "subfolder", "revision", "variant", "lora", "tokenizer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A finished output; `shown` is how it was given, and `records` are of its shards in order."""

    shown: str
    folder: OutputFolder
    store: Store
    job: FrozenJob
    records: tuple[UnitRecord, ...]
    manifest_sha256: str

    @property
    def name(self) -> str:
        """The last part of its folder's name."""
        return PurePosixPath(self.folder.root).name

    @property
    def parts(self) -> Sequence[Mapping[str, Any]]:
        """What the outputs are known by whose rows it holds all, where it was merged."""
        derived = self.job.identity.get("derived", {})
        return tuple(derived["of"]) if derived.get("command") == "merge" else ()

    def describe(self) -> dict[str, str]:
        """What it is known by, wherever it lies."""
        return {"fingerprint": self.job.fingerprint, "manifest_sha256": self.manifest_sha256}

    @property
    def place(self) -> Mapping[str, Any]:
        """Where its model is, as far as its last run notes that."""
        noted = self.job.record.get("place")
        if noted is not None:
            return dict(noted)
        try:
            options = json.loads(self.store.read(ASKED))["options"]
            return {name: options[name] for name in OF_PLACE if name in options}
        except FileNotFoundError:
            return {}
        except (KeyError, TypeError, ValueError) as error:
            raise OutputError(f"{self.shown}: {ASKED}: expected the options of a job, got {error}") from error

    @contextlib.contextmanager
    def open(self, record: UnitRecord) -> Iterator[pq.ParquetFile]:
        """A shard for reading; OutputError where it is damaged, or not the one of the manifest."""
        path = self.path(record)
        try:
            with pq.ParquetFile(path, filesystem=self.folder.filesystem) as file:
                found = parse_record(file.metadata, record.counts.size)
                if found is None or (found.name, found.content) != (record.name, record.content):
                    raise OutputError(self.explain(record))
                yield file
        except (OSError, pa.ArrowException) as error:
            said = str(error).partition("\n")[0]
            raise OutputError(f"{path}: expected a Parquet shard, got: {said}") from error

    def explain(self, record: UnitRecord) -> str:
        """What is wrong with a shard that is not as the manifest has it."""
        return (
            f"{self.shown}/{record.name}: expected the shard of its manifest, got a damaged one, another or none; look "
            f"at `t5enc fsck {self.shown}`"
        )

    def path(self, record: UnitRecord) -> str:
        """Where a shard lies on the folder's filesystem."""
        return f"{self.folder.root}/{record.name}"


def open_origin(path: str) -> Origin:
    """A finished output; UnfinishedError for another one, OutputError where there is none, or a damaged one."""
    folder, store = open_output(path), open_store(path)
    shown, manifest = hide_credentials(path), store.read(MANIFEST)
    try:
        rows = pq.read_table(pa.BufferReader(manifest)).to_pylist()
        records = tuple(UnitRecord.from_row(row) for row in rows)
    except (pa.ArrowException, TypeError, ValueError) as error:
        said = str(error).partition("\n")[0]
        raise OutputError(f"{shown}: {MANIFEST}: cannot be read: {said}; look at `t5enc fsck {shown}`") from error
    return Origin(
        shown=shown,
        folder=folder,
        store=store,
        job=FrozenJob.from_json(store.read(JOB)),
        records=records,
        manifest_sha256=hashlib.sha256(manifest).hexdigest(),
    )


def check_alike(origins: Sequence[Origin]) -> None:
    """JobMismatchError where an output's embeddings are none of the first one's computation, codec or length."""
    first = origins[0]
    expected = _list_common(first.job)
    for other in origins[1:]:
        differences = compare(expected, _list_common(other.job))
        if differences:
            lines = [f"  {name}: expected {there!r}, got {here!r}" for name, (there, here) in differences.items()]
            raise JobMismatchError(
                f"{other.shown}: expected embeddings like those of {first.shown}:\n" + "\n".join(lines), differences
            )


def _list_common(job: FrozenJob) -> dict[str, Any]:
    return {name: value for name, value in job.identity.items() if name not in OF_ROWS} | {"dim": job.dim}


def derive_job(origins: Sequence[Origin], kept: pa.Schema, derived: Mapping[str, Any]) -> FrozenJob:
    """The job of an output that is made of others: theirs, with what was `derived`. It has keys where all of them do,

    and no references.
    """
    first = origins[0].job
    choices = {one.job.identity.get("caption_choice", "all") for one in origins}
    identity = _list_common(first) | {
        "keep_columns": kept.names,
        "caption_choice": choices.pop() if len(choices) == 1 else "all",
        "derived": {**derived, "of": [origin.describe() for origin in origins]},
    }
    del identity["dim"]
    told = ("model", "device", "recipe", "recipe_source", "pooling_modules")
    record = {name: first.record[name] for name in told if name in first.record}
    places = [origin.place for origin in origins]
    place = {name: value for name, value in places[0].items() if all(one.get(name) == value for one in places)}
    return FrozenJob(
        identity=identity,
        rows_per_shard=max(origin.job.rows_per_shard for origin in origins),
        dim=first.dim,
        schema=schema_to_text(kept),
        record=record | {"place": place, "inputs": [origin.shown for origin in origins]},
        has_keys=all(origin.job.has_keys for origin in origins),
    )


def find_null(origins: Sequence[Origin]) -> Conditioning | None:
    """The null prompt that all have: that of the first, which is computed as the others are."""
    return origins[0].folder.conditioning
