"""Reading what a job wrote: which shards belong to it, its rows, its embeddings. Never needs Ray.

Readers trust the manifest, not a listing: a folder may also hold shards of an older input or a killed run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from t5enc.embeddings import Embeddings
from t5enc.errors import OutputError, UnfinishedError
from t5enc.pooling import Pooler
from t5enc.recipes.conditioning import Conditioning
from t5enc.recipes.recipe import Recipe
from t5enc.shards.shared import SharedRows, fill_references, name_referring
from t5enc.storage import PREFIX, column_format, read_column
from t5enc.storage.filesystems import find_filesystem, hide_credentials
from t5enc.storage.layout import DATA, FORMAT_VERSION, JOB, MANIFEST, NULL, OLD_JOB, SHARED, SUCCESS, is_shard
from t5enc.storage.null_prompt import deserialize_null

# What a manifest says of each shard, beside its name, that readers use.
COUNTED = ("source", "first_row", "captions", "errors")
# What a job's `duplicates` says where equal embeddings are stored once.
REFERENCED = "referenced"
# In what an output and its `shared/` must be alike.
SAME = ("weights", "recipe", "dtype", "storage_dtype", "dim")


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """A folder that `t5enc encode` writes: its job, and its shards in input order."""

    filesystem: Any
    root: str
    job: dict[str, Any]
    shards: tuple[str, ...]
    is_finished: bool
    conditioning: Conditioning | None
    pooler: Pooler | None = None
    manifest: pa.Table | None = None
    """Of a finished output: `name` of each shard and, where they were noted, what `COUNTED` names."""
    shared: SharedFolder | None = None
    """What rows refer to, where equal embeddings are stored once."""

    def read_shard(self, name: str, columns: Sequence[str] | None = None) -> tuple[pa.Table, Embeddings]:
        """The rows of one shard without their bytes, and their embeddings, those that rows refer to among them."""
        shared = None if self.shared is None else self.shared.rows
        table, embeddings = read_shard(self.filesystem, f"{self.root}/{name}", columns, shared)
        return table, replace(embeddings, conditioning=self.conditioning, pooler=self.pooler)


@dataclass(frozen=True, slots=True)
class SharedFolder:
    """The finished `shared/` of an output: its shards in order, and its rows by number."""

    shards: tuple[str, ...]
    manifest: pa.Table
    rows: SharedRows


def open_output(path: str | os.PathLike[str], *, partial: bool = False) -> OutputFolder:
    """Open a job's output; unfinished is an UnfinishedError unless `partial`, which then lists what is there."""
    filesystem, root = find_filesystem(path)
    shown = hide_credentials(os.fspath(path))
    job = _read_job(filesystem, root, shown)
    if job is None:
        raise OutputError(f"{shown}: expected the output of a t5enc job, got a folder without {JOB}")
    manifest = read_manifest(filesystem, root)
    if manifest is None and not partial:
        raise UnfinishedError(
            f"{shown}: the job is not finished ({SUCCESS} is missing or does not match {MANIFEST}); "
            f"run the same `t5enc encode` again, or read it with partial=True"
        )
    found = _list_shards(filesystem, root) if manifest is None else manifest["name"].to_pylist()
    conditioning = _read_conditioning(filesystem, root, job)
    pooler = _read_pooler(job)
    is_finished, shared = manifest is not None, _open_shared(filesystem, root, job, is_finished=manifest is not None)
    return OutputFolder(filesystem, root, job, tuple(found), is_finished, conditioning, pooler, manifest, shared)


def _open_shared(filesystem: Any, root: str, job: Mapping[str, Any], *, is_finished: bool) -> SharedFolder | None:
    """What rows of an output refer to; None where none does, or where an unfinished output does not have it yet.

    OutputError where it is missing, not finished, or of another computation or codec than the output.
    """
    if job["identity"].get("duplicates") != REFERENCED:
        return None
    folder = f"{root}/{SHARED}"
    found, manifest = _read_job(filesystem, folder, folder), read_manifest(filesystem, folder)
    if found is None or manifest is None:
        if not is_finished or _refers_nowhere(filesystem, root):
            return None
        raise OutputError(f"{folder}: expected the finished output that rows of {root} refer to, got none")
    for name in SAME:
        mine, theirs = ({**one["identity"], "dim": one["dim"]}.get(name) for one in (job, found))
        if mine != theirs:
            raise OutputError(f"{folder}: expected the {name} of {root}, {mine}, got {theirs}")
    shards = tuple(manifest["name"].to_pylist())
    counts = manifest["captions"].to_pylist() if "captions" in manifest.column_names else None
    form = {"storage": job["identity"]["storage_dtype"], "dim": job["dim"], "counts": counts}
    return SharedFolder(shards, manifest, SharedRows(filesystem, folder, shards, **form))


def _refers_nowhere(filesystem: Any, root: str) -> bool:
    """Whether a finished output says that none of its rows refers to others."""
    success = _read_json(filesystem, f"{root}/{SUCCESS}") or {}
    return bool(success.get("totals", {}).get("shared") == 0)


def _read_job(filesystem: Any, root: str, shown: str) -> dict[str, Any] | None:
    """The job of a folder, None where there is none; OutputError where it is of another format."""
    if _read_json(filesystem, f"{root}/{OLD_JOB}") is not None:
        raise OutputError(explain_old(shown))
    job = _read_json(filesystem, f"{root}/{JOB}")
    if job is not None:
        check_format(job, shown)
    return job


def explain_old(shown: str) -> str:
    """What is wrong with an output of format 1, and the command that mends it."""
    return (
        f"{shown}: expected an output of format {FORMAT_VERSION}, got one of format 1, with {OLD_JOB}; "
        f"move it over with `t5enc fsck --migrate {shown}`, which computes nothing anew"
    )


def check_format(job: Mapping[str, Any], shown: str) -> None:
    """OutputError unless a job was written in the format that this release knows."""
    found = job.get("format")
    if found != FORMAT_VERSION:
        raise OutputError(
            f"{shown}: expected an output of format {FORMAT_VERSION}, got {JOB} of format {found}; "
            f"use the release of t5enc that wrote it"
        )


def _read_conditioning(filesystem: Any, root: str, job: dict[str, Any]) -> Conditioning | None:
    """The job's recipe and its null prompt; None for a job without a recipe."""
    recipe = read_recipe(job["identity"], job["record"])
    if recipe is None:
        return None
    try:
        data = _read_bytes(filesystem, f"{root}/{NULL}")
    except FileNotFoundError as error:
        raise OutputError(f"{root}: {NULL} is missing; run the same `t5enc encode` again, which makes it") from error
    return deserialize_null(data, recipe, job["fingerprint"])


def _read_pooler(job: dict[str, Any]) -> Pooler | None:
    """That of a checkpoint whose own modules pool: their names are in the output, they are not."""
    names = job["record"].get("pooling_modules")
    return None if names is None else Pooler.absent(names)


def read_recipe(identity: Mapping[str, Any], record: Mapping[str, Any]) -> Recipe | None:
    """What a job's embeddings are made for; its pipeline's class is no part of the identity, and kept beside it."""
    values = identity.get("recipe")
    return None if values is None else Recipe.from_mapping({"source": record.get("recipe_source", "")} | values)


def load_embeddings(
    path: str | os.PathLike[str], columns: Sequence[str] | None = None, *, partial: bool = False
) -> tuple[pa.Table, Embeddings]:
    """All rows of a job's output (or of one shard) in input order, and their embeddings.

    `columns` names what else to read of each row, all but the bytes by default. A row without embedding has no
    tokens; its reason stands in `text_embedding_error`. One shard is read without copying its values again.
    """
    if str(path).endswith(".parquet"):
        return _read_alone(*find_filesystem(path), columns)
    parts = list(iter_embeddings(path, columns, partial=partial))
    if not parts:
        raise OutputError(f"{hide_credentials(os.fspath(path))}: expected at least one shard, got none")
    return pa.concat_tables([table for table, _ in parts]), Embeddings.concatenate([part for _, part in parts])


def iter_embeddings(
    path: str | os.PathLike[str], columns: Sequence[str] | None = None, *, partial: bool = False
) -> Iterator[tuple[pa.Table, Embeddings]]:
    """The same shard by shard, for outputs larger than memory."""
    folder = open_output(path, partial=partial)
    return (folder.read_shard(name, columns) for name in folder.shards)


def read_shard(
    filesystem: Any, path: str, columns: Sequence[str] | None = None, shared: SharedRows | None = None
) -> tuple[pa.Table, Embeddings]:
    """One shard's rows without their bytes, and their embeddings, of which `shared` has those that rows refer to."""
    try:
        file = pq.ParquetFile(path, filesystem=filesystem)
    except (OSError, pa.ArrowInvalid) as error:
        raise OutputError(f"{path}: expected a Parquet shard, got {error}") from error
    with file:
        form, present = column_format(file.schema_arrow), file.schema_arrow.names
        wanted = [name for name in present if columns is None or name in columns]
        _check_columns(path, columns or (), present)
        table = file.read(columns=[*dict.fromkeys([*wanted, f"{PREFIX}bytes", *name_referring(present)])])
    embeddings = read_column(table.column(f"{PREFIX}bytes"), form["storage_dtype"], form["dim"])
    embeddings = fill_references(path, 0, table, embeddings, shared)
    return table.select([name for name in wanted if name != f"{PREFIX}bytes"]), embeddings


def _read_alone(filesystem: Any, file: str, columns: Sequence[str] | None) -> tuple[pa.Table, Embeddings]:
    """One shard with what the job says of it in whose folder it lies; as it is where there is none."""
    for folder in PurePosixPath(file).parents:
        root = str(folder)
        if (job := _read_job(filesystem, root, root)) is not None:
            conditioning = _read_conditioning(filesystem, root, job)
            shared = _open_shared(filesystem, root, job, is_finished=False)
            table, embeddings = read_shard(filesystem, file, columns, None if shared is None else shared.rows)
            return table, replace(embeddings, conditioning=conditioning, pooler=_read_pooler(job))
    return read_shard(filesystem, file, columns)


def _check_columns(path: str, wanted: Sequence[str], present: Sequence[str]) -> None:
    for name in wanted:
        if name not in present:
            raise OutputError(f"{path}: no column {name!r}; expected one of {', '.join(present)}")


def read_manifest(filesystem: Any, root: str, columns: Sequence[str] = COUNTED) -> pa.Table | None:
    """A row a shard in order, with its `name` and those of `columns` that are there; None for an unfinished job."""
    success = _read_json(filesystem, f"{root}/{SUCCESS}")
    if success is None:
        return None
    try:
        data = _read_bytes(filesystem, f"{root}/{MANIFEST}")
    except FileNotFoundError:
        return None
    if hashlib.sha256(data).hexdigest() != success.get("manifest_sha256"):
        return None
    file = pq.ParquetFile(pa.BufferReader(data))
    return file.read(columns=["name", *(name for name in columns if name in file.schema_arrow.names)])


def _list_shards(filesystem: Any, root: str) -> list[str]:
    """Every shard that lies there; names sort in input order."""
    selector = pa.fs.FileSelector(f"{root}/{DATA}", recursive=True, allow_not_found=True)
    infos = filesystem.get_file_info(selector)
    names = [str(PurePosixPath(info.path).relative_to(root)) for info in infos if info.is_file]
    return sorted(filter(is_shard, names))


def _read_json(filesystem: Any, path: str) -> dict[str, Any] | None:
    try:
        return json.loads(_read_bytes(filesystem, path))  # type: ignore[no-any-return]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise OutputError(f"{path}: expected JSON, got {error}") from error


def _read_bytes(filesystem: Any, path: str) -> bytes:
    with filesystem.open_input_file(path) as stream:
        return stream.read()  # type: ignore[no-any-return]
