"""What an output says of its own numbers: the model, recipe, length, dtype and codec that its job was frozen with."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import pyarrow as pa

from t5enc.dataset.catalog import UNTOLD
from t5enc.errors import ConfigError, OutputError
from t5enc.options import NO_RECIPE, EncoderOptions, ModelSource
from t5enc.output import OutputFolder, read_recipe
from t5enc.recipes.recipe import Recipe
from t5enc.storage.layout import ASKED
from t5enc.text.content_keys import hash_computation

# What an output notes of where its model and tokenizer are, beside the model's name.
PLACE = (*(entry.name for entry in fields(ModelSource) if entry.name not in ("model", "token")), "tokenizer")


@dataclass(frozen=True)
class Claims:
    """A job as `_t5enc/job.json` has it, and the options of its last run, if it notes them.

    `left_out` names those of the options that could not be noted.
    """

    job: Mapping[str, Any]
    asked: Mapping[str, Any] = field(default_factory=dict)
    left_out: Sequence[str] = ()

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

    @property
    def is_derived(self) -> bool:
        """Whether it was made of other outputs, each of which may have kept its captions or not."""
        return "derived" in self.identity

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
        found = model or self.asked.get("model") or self.job["record"].get("model", UNTOLD)
        if found == UNTOLD:
            raise ConfigError(
                "model: expected one with --model, for this output does not say what encoded it, got none"
            )
        missing = [name for name in self.left_out if name in ("model", *PLACE) and name not in place]
        if missing and not model:
            raise ConfigError(
                f"{missing[0]}: expected what the job was given, since this output does not note it (it may hold a "
                f"secret, or is bytes), got none: give --{missing[0]} or --model"
            )
        noted = {} if model else {name: self.asked[name] for name in PLACE if name in self.asked}
        length = None if self.recipe is not None else self.identity.get("max_length")
        given = {"recipe": self.recipe or NO_RECIPE, "max_length": length, "device": device, "dtype": "float32"}
        return EncoderOptions.from_mapping({"model": found, **noted, **place, **given})


def read_claims(folder: OutputFolder) -> Claims:
    """What an output says; where its model is by its last run's options, or of a derived output by its record.

    OutputError for options that cannot be read.
    """
    try:
        with folder.filesystem.open_input_file(f"{folder.root}/{ASKED}") as stream:
            noted = json.loads(stream.read())
        return Claims(folder.job, dict(noted["options"]), tuple(noted["left_out"]))
    except FileNotFoundError:
        return Claims(folder.job, folder.job["record"].get("place", {}))
    except (KeyError, TypeError, ValueError) as error:
        raise OutputError(f"{folder.root}/{ASKED}: expected the options of a job, got {error}") from error
