"""The outputs that a dataset reads, and all of their shards in order: how many rows each has, and which come before.

S shards.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from t5enc.errors import ConfigError, OutputError
from t5enc.output import OutputFolder, SharedFolder, open_output
from t5enc.recipes.conditioning import Conditioning
from t5enc.storage.codecs import find_codec
from t5enc.storage.filesystems import hide_credentials
from t5enc.storage.layout import SHARED

Path = str | os.PathLike[str]
# What becomes of a row without an embedding: it is not counted, has no tokens, or may not be.
Missing = Literal["skip", "zeros", "error"]
MISSING: tuple[Missing, ...] = ("skip", "zeros", "error")
# Rows of a shard, or those of them without an embedding, where nothing but the shard tells.
UNKNOWN = -1
# What stands for weights that an imported output does not know.
UNTOLD = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """An output as a dataset needs it: how its embeddings are stored, and what made them."""

    shown: str
    filesystem: Any
    root: str
    job: dict[str, Any]
    storage: str
    dim: int
    conditioning: Conditioning | None

    @property
    def working(self) -> str:
        """The dtype of its embeddings in memory."""
        return find_codec(self.storage).working


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Shards in order; `captions` are a shard's rows, `errors` those without an embedding, UNKNOWN where not noted.

    After those of all outputs come those that rows of each refer to, which are not counted.
    `sources` and `first_rows` say where in its job's input a shard begins, "" and UNKNOWN where that is not noted.
    """

    outputs: tuple[Output, ...]
    names: tuple[str, ...]
    output_of: NDArray[np.int32]
    sources: tuple[str, ...]
    first_rows: NDArray[np.int64]
    captions: NDArray[np.int64]
    errors: NDArray[np.int64]
    num_shared: int

    def __len__(self) -> int:
        return len(self.names) - self.num_shared

    def find_path(self, shard: int) -> str:
        """Where a shard lies on its filesystem."""
        return f"{self.find_output(shard).root}/{self.names[shard]}"

    def find_output(self, shard: int) -> Output:
        """The output that a shard is of."""
        return self.outputs[int(self.output_of[shard])]

    @property
    def unknown(self) -> NDArray[np.int64]:
        """Shards of which only they tell how many rows they have."""
        return np.flatnonzero((self.captions == UNKNOWN) | (self.errors == UNKNOWN))

    def with_counts(self, shards: NDArray[np.int64], captions: Iterable[int], errors: Iterable[int]) -> Catalog:
        """The same, with counts of these shards."""
        all_captions, all_errors = self.captions.copy(), self.errors.copy()
        all_captions[shards], all_errors[shards] = list(captions), list(errors)
        return replace(self, captions=all_captions, errors=all_errors)


def open_catalog(paths: Sequence[Path], *, partial: bool) -> Catalog:
    """The shards of these outputs; OutputError where they cannot be one dataset."""
    if not paths:
        raise ConfigError("paths: expected at least one output, got none")
    folders = [open_output(path, partial=partial) for path in paths]
    outputs = tuple(_describe(folder, path) for folder, path in zip(folders, paths, strict=True))
    for output in outputs[1:]:
        _check_alike(outputs[0], output)
    own = [_Listing(place, folder.shards, folder.manifest) for place, folder in enumerate(folders)]
    shared = [_list_shared(place, folder.shared) for place, folder in enumerate(folders) if folder.shared is not None]
    listings = [*own, *shared]
    places, counts = [listing.output for listing in listings], [len(listing.names) for listing in listings]
    return Catalog(
        outputs=outputs,
        names=tuple(name for listing in listings for name in listing.names),
        output_of=np.repeat(np.array(places, np.int32), counts),
        sources=tuple(source for listing in listings for source in listing.read_sources()),
        first_rows=np.concatenate([listing.read_noted("first_row") for listing in listings]),
        captions=np.concatenate([listing.read_noted("captions") for listing in listings]),
        errors=np.concatenate([listing.read_noted("errors") for listing in listings]),
        num_shared=sum(counts[len(own) :]),
    )


def _describe(folder: OutputFolder, path: Path) -> Output:
    return Output(
        shown=hide_credentials(os.fspath(path)),
        filesystem=folder.filesystem,
        root=folder.root,
        job=folder.job,
        storage=str(folder.job["identity"]["storage_dtype"]),
        dim=int(folder.job["dim"]),
        conditioning=folder.conditioning,
    )


def _check_alike(first: Output, other: Output) -> None:
    """OutputError unless rows of both can stand in one batch."""
    _check_weights(first, other)
    for what, here, there in (
        ("width", first.dim, other.dim),
        ("dtype", first.working, other.working),
        ("recipe", _name_recipe(first), _name_recipe(other)),
    ):
        if here != there:
            raise OutputError(f"{other.shown}: expected the {what} of {first.shown}, {here}, got {there}")
    if first.conditioning is not None and other.conditioning is not None:
        mine, theirs = first.conditioning.recipe.to_identity(), other.conditioning.recipe.to_identity()
        if differ := [name for name in mine if mine[name] != theirs.get(name)]:
            raise OutputError(f"{other.shown}: expected the recipe of {first.shown}, got one with another {differ[0]}")


def _check_weights(first: Output, other: Output) -> None:
    """OutputError where two models made them, as far as their jobs know."""
    here, there = (output.job["identity"].get("weights", UNTOLD) for output in (first, other))
    if here != there and UNTOLD not in (here, there):
        mine, theirs = (output.job["record"].get("model", UNTOLD) for output in (first, other))
        raise OutputError(
            f"{other.shown}: expected embeddings of the weights of {first.shown}, {mine} ({here[:12]}), "
            f"got those of {theirs} ({there[:12]})"
        )


def _name_recipe(output: Output) -> str:
    if output.conditioning is None:
        return "none"
    return f"{output.conditioning.recipe.name}, version {output.conditioning.recipe.version}"


@dataclass(frozen=True, slots=True)
class _Listing:
    """Some shards of an output in order, and what a manifest notes of them."""

    output: int
    names: tuple[str, ...]
    manifest: pa.Table | None

    def read_sources(self) -> list[str]:
        """The source of each shard, "" where it is not noted."""
        if self.manifest is None or "source" not in self.manifest.column_names:
            return [""] * len(self.names)
        return self.manifest["source"].to_pylist()  # type: ignore[no-any-return]

    def read_noted(self, name: str) -> NDArray[np.int64]:
        """A count of each shard's, or UNKNOWN."""
        if self.manifest is None or name not in self.manifest.column_names:
            return np.full(len(self.names), UNKNOWN, np.int64)
        return np.asarray(self.manifest[name].to_numpy(), np.int64)


def _list_shared(output: int, shared: SharedFolder) -> _Listing:
    return _Listing(output, tuple(f"{SHARED}/{name}" for name in shared.shards), shared.manifest)
