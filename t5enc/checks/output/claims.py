"""What an output says of its own numbers: the model, recipe, length, dtype and codec that its job was frozen with."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import pyarrow as pa

from t5enc.dataset.catalog import UNTOLD
from t5enc.errors import ConfigError
from t5enc.options import NO_RECIPE, EncoderOptions, ModelSource
from t5enc.output import read_recipe
from t5enc.recipes.recipe import Recipe
from t5enc.text.content_keys import hash_computation

# What a job's record holds of where its model is, beside the model's name.
PLACE = tuple(entry.name for entry in fields(ModelSource) if entry.name not in ("model", "token"))


@dataclass(frozen=True)
class Claims:
    """A job as `_t5enc/job.json` has it."""

    job: Mapping[str, Any]

    @property
    def identity(self) -> Mapping[str, Any]:
        """What makes the job this one."""
        found: Mapping[str, Any] = self.job["identity"]
        return found

    @property
    def storage(self) -> str:
        """The codec of its embeddings."""
        return str(self.identity["storage_dtype"])

    @property
    def dim(self) -> int:
        """The width of a token's embedding."""
        return int(self.job["dim"])

    @property
    def dtype(self) -> str:
        """What it was computed in; of an imported output nobody knows."""
        return str(self.identity.get("dtype", UNTOLD))

    @property
    def text_column(self) -> str | None:
        """The column that was encoded."""
        return self.identity.get("text_column")

    @cached_property
    def keeps_captions(self) -> bool:
        """Whether its shards have the column that was encoded."""
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.job["schema"])))
        return self.text_column in schema.names

    @property
    def has_keys(self) -> bool:
        """Whether its rows have content keys."""
        return bool(self.job.get("has_keys"))

    @cached_property
    def recipe(self) -> Recipe | None:
        """What its embeddings are made for."""
        return read_recipe(self.identity, self.job["record"])

    @cached_property
    def computation(self) -> bytes:
        """What all of its content keys have in common."""
        return hash_computation(
            weights=str(self.identity.get("weights")), dtype=self.dtype, projection=self.identity.get("projection")
        )

    def knows(self, name: str) -> bool:
        """Whether the job says something of this name."""
        return str(self.identity.get(name, UNTOLD)) != UNTOLD

    def make_options(self, model: str | None, place: Mapping[str, Any], *, device: str) -> EncoderOptions:
        """The job's encoder in float32, `model` and `place` for the recorded ones; ConfigError without a model."""
        record = self.job["record"]
        asked = record.get("asked", {})
        found = model or asked.get("model") or record.get("model", UNTOLD)
        if found == UNTOLD:
            raise ConfigError(
                "model: expected one with --model, for this output does not say what encoded it, got none"
            )
        noted = {} if model else {name: asked[name] for name in (*PLACE, "tokenizer") if name in asked}
        length = None if self.recipe is not None else self.identity.get("max_length")
        given = {"recipe": self.recipe or NO_RECIPE, "max_length": length, "device": device, "dtype": "float32"}
        return EncoderOptions.from_mapping({"model": found, **noted, **place, **given})
