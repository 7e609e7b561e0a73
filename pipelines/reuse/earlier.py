"""Earlier outputs whose embeddings a job may take: what they must have in common with it, and which shards they have.

An output of another computation, without content keys, or stored in a way that lost too much is refused by name. Keys
are equal only where computations are, so shards of any job may lie in an output: what is not this job's is not found.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from pipelines.job import FrozenJob
from t5enc.errors import ConfigError, JobMismatchError, OutputError
from t5enc.output import explain_old
from t5enc.storage.codecs import find_codec
from t5enc.storage.filesystems import find_filesystem, hide_credentials
from t5enc.storage.layout import DATA, JOB, OLD_JOB, PARQUET, SHARED, STALE

# What a computation is of, by its names in a job's identity.
COMPUTED = ("weights", "dtype", "projection")


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierOutput:
    """Picklable; `shards` has a row for each shard, `name` below `root` and `size`, in the order of names.

    `storage` and `dim` are those of its job. Of shards that are not `deterministic` nothing is taken where that is
    asked for. What `is_own` a run of the job that takes it has computed.
    """

    shown: str
    filesystem: Any
    root: str
    storage: str
    dim: int
    deterministic: bool
    shards: pa.Table
    is_own: bool = False

    def digest(self) -> str:
        """16 letters that tell the output, and 16 that are the same for the same shards, as far as a listing tells."""
        place = hashlib.sha256(json.dumps([self.filesystem.type_name, self.root]).encode()).hexdigest()
        digest = hashlib.sha256(json.dumps([self.storage, self.dim, self.deterministic]).encode())
        for batch in self.shards.to_batches():
            for name, size in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogatepass"))
        return place[:16] + digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Found:
    """An earlier output's place, and its job; `is_own` where it holds what another job does for itself."""

    shown: str
    filesystem: Any
    root: str
    job: FrozenJob
    is_own: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """Those that fit, and why some are `missing`, by their names: a job that `is_begun` does without."""

    found: tuple[Found, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)
    is_begun: bool = False

    def list(self) -> tuple[EarlierOutput, ...]:
        """Their shards as they lie there now, and what was put aside.

        One that cannot be listed is noted as missing where the job is begun; else it is an OutputError.
        """
        outputs = []
        for one in self.found:
            try:
                outputs.append(list_output(one, with_stale=True))
            except (OSError, pa.ArrowException) as error:
                if not self.is_begun:
                    raise OutputError(f"reuse: {one.shown}: its shards cannot be listed: {error}") from error
                self.missing[one.shown] = f"its shards cannot be listed: {error}"
        return tuple(outputs)


def open_earlier(paths: Sequence[str], job: FrozenJob, *, is_begun: bool) -> Earlier:
    """Check outputs to take embeddings from, before any work.

    ConfigError or JobMismatchError where one does not fit the job, OutputError where one is not there, unless the job
    `is_begun`: then its rows are computed.
    """
    found: list[Found] = []
    missing: dict[str, str] = {}
    for path in paths:
        try:
            one = find_output(path)
        except OutputError as error:
            if not is_begun:
                raise
            shown = hide_credentials(path)
            missing[shown] = str(error).removeprefix(f"reuse: {shown}: ")
        else:
            check_fit(one, job)
            found.append(one)
    return Earlier(found=tuple(found), missing=missing, is_begun=is_begun)


def find_output(path: str) -> Found:
    """An output, finished or not; OutputError where there is none."""
    shown = hide_credentials(path)
    filesystem, root = find_filesystem(path)
    try:
        if filesystem.get_file_info(f"{root}/{OLD_JOB}").type == pafs.FileType.File:
            raise OutputError(explain_old(shown))
        with filesystem.open_input_file(f"{root}/{JOB}") as stream:
            data = stream.read()
    except OSError as error:
        raise OutputError(f"reuse: {shown}: expected the output of a t5enc job, got: {error}") from error
    return Found(shown, filesystem, root, FrozenJob.from_json(data))


def check_fit(earlier: Found, job: FrozenJob) -> None:
    """ConfigError or JobMismatchError where none of an output's embeddings could be a job's."""
    there, here = earlier.job, job
    name = f"reuse: {earlier.shown}"
    if not there.has_keys:
        raise ConfigError(
            f"{name}: expected an output with content keys, got one without: an earlier release or an import wrote it"
        )
    if there.computation != here.computation:
        pairs = {part: (there.identity.get(part), here.identity.get(part)) for part in COMPUTED}
        differ = {part: pair for part, pair in pairs.items() if pair[0] != pair[1]}
        told = "; ".join(
            f"{part}: expected {_tell(part, mine, here)}, got {_tell(part, theirs, there)}"
            for part, (theirs, mine) in differ.items()
        )
        raise JobMismatchError(f"{name}: expected embeddings of this job's computation; {told}", differ)
    if there.dim != here.dim:
        raise JobMismatchError(f"{name}: dim: expected {here.dim}, got {there.dim}", {"dim": (there.dim, here.dim)})
    if not is_good_enough(there.storage_dtype, here.storage_dtype):
        raise ConfigError(
            f"{name}: storage_dtype: expected {list_good_enough(here.storage_dtype)} to be stored as "
            f"{here.storage_dtype}, got {there.storage_dtype}"
        )
    if needs_deterministic(here) and not needs_deterministic(there):
        raise ConfigError(f"{name}: expected an output of a deterministic job, as this one is, got one of another")


def _tell(part: str, value: Any, job: FrozenJob) -> str:
    """A part of what a job computes: of weights whose, and the first letters of their hash."""
    if part == "weights" and value is not None:
        return f"those of {job.record.get('model', 'a model that is not known')} ({str(value)[:12]})"
    return repr(value)


def needs_deterministic(job: FrozenJob) -> bool:
    """Whether a job's embeddings are the same bits in any company."""
    return bool(job.identity.get("deterministic"))


def is_good_enough(storage: str, wanted: str) -> bool:
    """Whether what was stored in one way becomes, stored in another, the bytes that a fresh job writes."""
    if storage == wanted:
        return True
    codec = find_codec(storage)
    return codec.is_lossless and codec.working in ("float32", find_codec(wanted).working)


def list_good_enough(wanted: str) -> str:
    """All codecs that are good enough for one, for an error."""
    from t5enc.storage import CODECS

    return " or ".join(name for name in CODECS if is_good_enough(name, wanted))


def list_output(found: Found, *, with_stale: bool = False) -> EarlierOutput:
    """An output's shards, those that rows of it refer to, and those that runs put aside if asked for."""
    folders = [DATA, f"{SHARED}/{DATA}", *([STALE] if with_stale else [])]
    entries = sorted(entry for folder in folders for entry in _list_folder(found, folder))
    columns = {"name": [name for name, _ in entries], "size": [size for _, size in entries]}
    return EarlierOutput(
        shown=found.shown,
        filesystem=found.filesystem,
        root=found.root,
        storage=found.job.storage_dtype,
        dim=found.job.dim,
        deterministic=needs_deterministic(found.job),
        is_own=found.is_own,
        shards=pa.table(columns, schema=pa.schema({"name": pa.string(), "size": pa.int64()})),
    )


def _list_folder(found: Found, folder: str) -> Iterator[tuple[str, int]]:
    selector = pafs.FileSelector(f"{found.root}/{folder}", recursive=True, allow_not_found=True)
    for info in found.filesystem.get_file_info(selector):
        if info.is_file and PARQUET in info.base_name:
            yield str(PurePosixPath(info.path).relative_to(found.root)), int(info.size)
