"""A job as asked for, and as frozen: the first object of an output folder, which decides what belongs there."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Required, Unpack

import pyarrow as pa

from t5enc.errors import ConfigError, OutputError
from t5enc.fields.parts import PLACE, check_names, fill, show_names, without
from t5enc.options import EncoderOptions, SharedNames, expand_home
from t5enc.output import check_format, read_recipe
from t5enc.recipes.recipe import Recipe
from t5enc.storage import check_storage_dtype
from t5enc.storage.layout import FORMAT_VERSION, JOB, OLD_JOB
from t5enc.text.content_keys import hash_computation

CaptionChoice = Literal["all", "first"]
# Among which captions equal ones are encoded once: those of a shard, or all of the job.
Dedup = Literal["unit", "job"]
# Whether each of the latter has its embedding, or they refer to one in `shared/`.
Duplicates = Literal["copied", "referenced"]
# Marks a schema that was found from all files.
OF_ALL_FILES = b"of all files"
# What an actor takes of a node under names of their own.
OWN_OPTIONS = {"CPU": "cpus_per_actor", "GPU": "gpus_per_actor"}
# Where a file or folder may lie in a home folder.
PATHS = ("inputs", "output", "reuse")


class JobNames(SharedNames, total=False):
    """What an EncodeJob is made of: a model, or the whole `encoder`, and the rest."""

    inputs: Required[Sequence[str | os.PathLike[str]]]
    output: Required[str | os.PathLike[str]]
    model: str | os.PathLike[str]
    encoder: EncoderOptions
    text_column: str
    caption_choice: CaptionChoice
    keep_columns: Sequence[str] | None
    cast: Mapping[str, str]
    storage_dtype: str
    reuse: Sequence[str | os.PathLike[str]]
    dedup: Dedup
    duplicates: Duplicates
    rows_per_shard: int | None
    actors: str | int
    tokenizers: str | int
    cpus_per_actor: int | None
    gpus_per_actor: float | None
    resources: Mapping[str, float]
    label_selector: Mapping[str, str]
    accelerator_type: str | None
    ship_code: bool | None
    on_error: Literal["keep", "fail"]
    overwrite: bool | None
    retry_errors: bool | None
    replace: bool | None
    recheck: bool | None
    ray_address: str | None


@show_names
@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeJob:
    """What to encode, with which model, and where to put it; the options of the encoder stand beside the others."""

    inputs: Sequence[str] = field(metadata=PLACE)
    output: str = field(metadata=PLACE)
    encoder: EncoderOptions = field(metadata=without("num_threads", "device_share"))
    text_column: str = "caption"
    caption_choice: CaptionChoice = "all"
    keep_columns: Sequence[str] | None = None
    cast: Mapping[str, str] = field(default_factory=dict)
    storage_dtype: str = "float16"
    reuse: Sequence[str] = field(default=(), metadata=PLACE)
    dedup: Dedup = "unit"
    duplicates: Duplicates = "copied"
    rows_per_shard: int | None = None
    actors: str | int = "auto"
    tokenizers: str | int = 0
    cpus_per_actor: int | None = None
    gpus_per_actor: float | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    label_selector: Mapping[str, str] = field(default_factory=dict)
    accelerator_type: str | None = None
    ship_code: bool = False
    on_error: Literal["keep", "fail"] = "keep"
    overwrite: bool = False
    retry_errors: bool = False
    replace: bool = False
    recheck: bool = False
    ray_address: str | None = None

    def __init__(self, **options: Unpack[JobNames]) -> None:
        fill(self, {name: _expand(value) if name in PATHS else value for name, value in options.items()})

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ConfigError("inputs: expected at least one file, folder or glob, got none")
        check_storage_dtype(self.storage_dtype)
        if self.duplicates == "referenced" and self.dedup != "job":
            raise ConfigError(f"duplicates: expected dedup job with referenced, got {self.dedup}")
        if self.rows_per_shard is not None and self.rows_per_shard < 1:
            raise ConfigError(f"rows_per_shard: expected at least 1, got {self.rows_per_shard}")
        if self.ray_address not in (None, "auto"):
            check_address(self.ray_address, "ray_address")
        if self.ship_code and self.ray_address is None:
            raise ConfigError("ship_code: expected a ray_address with it, got none: a local Ray runs this code anyway")
        self.actor_range()
        self.tokenizer_range()
        self._check_share()

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> EncodeJob:
        """A job from a YAML file or the command line; an unknown name is refused along with those that exist."""
        check_names(cls, options)
        return cls(**options)

    def encoder_options(self) -> EncoderOptions:
        """The part that describes the encoder."""
        return self.encoder

    def actor_range(self) -> tuple[int, int] | None:
        """(fewest, most) actors, or None where the cluster decides."""
        if self.actors == "auto":
            return None
        bounds = _parse_range(self.actors)
        if bounds is None:
            raise ConfigError(f"actors: expected auto, N or MIN:MAX with 1 <= MIN <= MAX, got {self.actors!r}")
        return bounds

    def tokenizer_range(self) -> tuple[int, int]:
        """(fewest, most) actors that read and tokenize for the encoders; none where encoders do it themselves."""
        if str(self.tokenizers) == "0":
            return 0, 0
        bounds = _parse_range(self.tokenizers)
        if bounds is None:
            raise ConfigError(f"tokenizers: expected 0, N or MIN:MAX with 1 <= MIN <= MAX, got {self.tokenizers!r}")
        return bounds

    def _check_share(self) -> None:
        """What an actor takes of a node must be what Ray can give."""
        shares = {"gpus_per_actor": self.gpus_per_actor} | {f"resources: {n}": a for n, a in self.resources.items()}
        for name, share in shares.items():
            if share is not None and (share <= 0 or (share > 1 and share != int(share))):
                raise ConfigError(f"{name}: expected a share of one, or a whole number of them, got {share:g}")
        if self.cpus_per_actor is not None and self.cpus_per_actor < 1:
            raise ConfigError(f"cpus_per_actor: expected at least 1, got {self.cpus_per_actor}")
        for name in OWN_OPTIONS:
            if name in self.resources:
                raise ConfigError(f"resources: expected {OWN_OPTIONS[name]} for {name}, got it here")


def check_address(address: str, name: str) -> None:
    """ConfigError where this is not HOST:PORT of a Ray cluster; `name` is where it was given."""
    if address.startswith("ray://"):
        raise ConfigError(
            f"{name}: expected auto or HOST:PORT of a cluster this machine is part of, got {address!r}; from outside, "
            f"use `ray job submit -- t5enc encode ...`"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"{name}: expected auto or HOST:PORT, or nothing for a local Ray, got {address!r}")


def _parse_range(value: str | int) -> tuple[int, int] | None:
    """N or MIN:MAX, at least 1; None for anything else."""
    low, _, high = str(value).partition(":")
    try:
        bounds = int(low), int(high or low)
    except ValueError:
        return None
    return bounds if 1 <= bounds[0] <= bounds[1] else None


def _expand(path: Any) -> Any:
    """A path, or each of a list, with its home folder."""
    return [expand_home(entry) for entry in path] if isinstance(path, list | tuple) else expand_home(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenJob:
    """What `_t5enc/job.json` holds.

    `identity` is what makes two jobs the same: any difference in it is another job. The rest is fixed by the first
    run, so that every later one cuts the same shards (`rows_per_shard`, `schema`), or is kept as a record. Without
    `captions_per_shard` and `bytes_per_shard` shards are of `rows_per_shard`, whatever these hold. Outputs of earlier
    releases, and those that were imported, have no column of content keys.
    """

    identity: dict[str, Any]
    rows_per_shard: int
    dim: int
    schema: str
    generation: int = 1
    record: dict[str, Any] = field(default_factory=dict)
    captions_per_shard: int | None = None
    bytes_per_shard: int | None = None
    has_keys: bool = False
    format: int = FORMAT_VERSION

    @property
    def fingerprint(self) -> str:
        """Hash of the identity and the generation: part of every unit's id."""
        limits = [limit for limit in (self.captions_per_shard, self.bytes_per_shard) if limit is not None]
        text = json.dumps([self.identity, self.generation, self.rows_per_shard, *limits], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def computation(self) -> bytes:
        """What all of its embeddings have in common, for their content keys."""
        projection = self.identity.get("projection")
        return hash_computation(
            weights=str(self.identity.get("weights")), dtype=str(self.identity["dtype"]), projection=projection
        )

    @property
    def has_references(self) -> bool:
        """Whether equal embeddings are stored once, in `shared/`, and referred to."""
        return self.identity.get("duplicates") == "referenced"

    @property
    def kept_schema(self) -> pa.Schema:
        """Schema of the kept input columns."""
        return self._read_schema().remove_metadata()

    @property
    def is_of_all_files(self) -> bool:
        """Whether the schema was found from all files; earlier releases took it from the first."""
        return OF_ALL_FILES in (self._read_schema().metadata or {})

    def _read_schema(self) -> pa.Schema:
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.schema)))

    @property
    def recipe(self) -> Recipe | None:
        """What embeddings are made for, with nothing left open."""
        return read_recipe(self.identity, self.record)

    def describe_recipe(self) -> str | None:
        """The recipe's name and version, and how it was chosen if nobody named it."""
        recipe, origin = self.recipe, self.record.get("recipe")
        if recipe is None:
            return None
        return f"{recipe.name}, version {recipe.version}" + (f", {origin}" if origin else "")

    @property
    def storage_dtype(self) -> str:
        """How embeddings are stored."""
        return str(self.identity["storage_dtype"])

    def to_json(self) -> bytes:
        """The bytes of `_t5enc/job.json`."""
        return json.dumps(asdict(self) | {"fingerprint": self.fingerprint}, indent=2, sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> FrozenJob:
        """Read `_t5enc/job.json`; OutputError where it is not one of ours, or of another format."""
        job = cls.from_old_json(data, JOB)
        check_format(json.loads(data), JOB)
        return job

    @classmethod
    def from_old_json(cls, data: bytes, where: str = OLD_JOB) -> FrozenJob:
        """A job of format 1 as one of this format: it is the same job, whose shards have the same ids."""
        try:
            content = json.loads(data)
            names = {entry.name for entry in fields(cls)}
            return cls(**{name: value for name, value in content.items() if name in names})
        except (ValueError, TypeError, AttributeError) as error:
            raise OutputError(f"{where}: expected a t5enc job, got {error}") from error


def schema_to_text(schema: pa.Schema) -> str:
    """A schema of all files as text that survives JSON."""
    return base64.b64encode(schema.with_metadata({OF_ALL_FILES: b""}).serialize().to_pybytes()).decode()
