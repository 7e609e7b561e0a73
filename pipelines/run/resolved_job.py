"""Everything a run decides before any work starts: what is there to encode, and which job it belongs to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from pipelines.inputs.columns.choice import Columns
from pipelines.inputs.sources import Inputs, SourceFile, open_inputs
from pipelines.job import EncodeJob, FrozenJob, schema_to_text
from pipelines.plan.density import Weighing
from pipelines.plan.plan import Files
from pipelines.run.job_columns import find_columns, identify_columns, name_kept
from pipelines.run.sample import MOST_CAPTIONS, Sample, take_sample
from pipelines.run.source_names import read_remembered, settle_names
from pipelines.run.survey import survey
from pipelines.stores.store import open_store
from t5enc.checkpoint.checkpoint import Checkpoint
from t5enc.checkpoint.fingerprint import hash_tensors
from t5enc.checkpoint.opening import open_model
from t5enc.checkpoint.repository import apply_inferred, find_inferred, open_projection
from t5enc.config import EncoderConfig
from t5enc.errors import OutputError, show_invisible
from t5enc.model.precision import resolve_dtype
from t5enc.options import EncoderOptions
from t5enc.recipes.inference import InferredRecipe
from t5enc.storage import name_codec, usual_token_bytes
from t5enc.storage.filesystems import find_filesystem, hide_credentials
from t5enc.text.preparer import Preparer, open_preparer

SHARD_BYTES = 256 << 20
SHARD_SECONDS = 20.0
SPAN_SECONDS = 60.0
MOST_UNITS = 40
# Rough useful floating-point operations a second, to size units of work; nothing else rests on them.
SPEEDS = {"cuda": 3e14, "cpu": 1e11}


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedJob:
    """What a run starts from."""

    inputs: Inputs
    files: Files
    unreadable: dict[str, str]
    columns: Columns
    frozen: FrozenJob
    config: EncoderConfig
    revision: str | None
    sample: Sample
    options: EncoderOptions


def resolve_job(job: EncodeJob, device: torch.device, *, cpus: int = 0, there: FrozenJob | None = None) -> ResolvedJob:
    """List inputs, read their footers, open the model, and work out the job as it would be frozen for a device.

    With `cpus`, those of the Ray cluster that this process is connected to, very many footers are read there. What an
    output is frozen with, if it is `there`, decides which columns fit it, and what files are called.
    """
    inputs = open_inputs(job.inputs)
    listing = inputs.list()
    check_output(job.output, inputs, listing.files)
    weighing = Weighing(job.text_column, job.caption_choice, name_kept(job, there))
    found = survey(inputs.filesystem, listing.files, weighing=weighing, cpus=cpus)
    columns = find_columns(inputs.filesystem, found.schemas, job, there)
    remembered = None if there is None else read_remembered(open_store(job.output), there, inputs, found.files)
    found = settle_names(found, listing, remembered)
    files, schema = found.files.in_order(), columns.schema
    asked = job.encoder
    checkpoint = open_model(asked.source)
    inferred = find_inferred(asked, checkpoint.repository)
    options = apply_inferred(asked, inferred)
    preparer = open_preparer(options, checkpoint)
    sample = take_sample(inputs.filesystem, files, job, schema, preparer)
    identity = identify_columns(job, there) | {"storage_dtype": name_storage(job, there)}
    frozen = freeze_options(job, device, checkpoint, preparer, schema, sample, identity)
    frozen.record.update(_record_recipe(inferred))
    return ResolvedJob(
        inputs=inputs,
        files=files,
        unreadable=found.unreadable,
        columns=columns,
        frozen=frozen,
        config=checkpoint.config,
        revision=checkpoint.provenance.get("commit") or asked.source.revision,
        sample=sample,
        options=options,
    )


def _record_recipe(found: InferredRecipe | None) -> dict[str, str]:
    """Where the recipe comes from, if nobody named it."""
    return {} if found is None else {"recipe": f"inferred from model_index.json ({found.pipeline})"}


def check_output(output: str, inputs: Inputs, sources: Sequence[SourceFile]) -> None:
    """OutputError where the output lies in a folder that is read: the next run would take it for captions."""
    filesystem, root = find_filesystem(output)
    cover = inputs.find_cover(root, sources) if filesystem.equals(inputs.filesystem) else None
    if cover is not None:
        raise OutputError(f"output: expected a folder outside the input, got {root}, which {cover} holds")


def freeze_options(
    job: EncodeJob,
    device: torch.device,
    checkpoint: Checkpoint,
    preparer: Preparer,
    schema: pa.Schema,
    sample: Sample,
    output: dict[str, Any],
) -> FrozenJob:
    """The job with nothing left open; `output` is what its identity says of columns, and of how they are stored."""
    dtype = str(resolve_dtype(job.encoder.dtype, device)).removeprefix("torch.")
    identity = {
        "weights": checkpoint.fingerprint(),
        "tokenizer": preparer.tokenizer.fingerprint,
        "recipe": None if preparer.recipe is None else preparer.recipe.to_identity(),
        "max_length": preparer.tokenizer.max_length,
        **output,
        "caption_choice": job.caption_choice,
        "dtype": dtype,
        "deterministic": job.encoder.deterministic,
    }
    width = checkpoint.config.model_dim
    variant, host = job.encoder.source.variant, torch.device("cpu")
    projection = open_projection(preparer.recipe, checkpoint.repository, variant, host, model_dim=width)
    if projection is not None:
        identity["projection"] = hash_tensors({"weight": projection[0], "bias": projection[1]})
    if job.duplicates == "referenced":
        identity["duplicates"] = job.duplicates
    if job.rows_per_shard is not None:
        identity["rows_per_shard"] = job.rows_per_shard
    dim = checkpoint.config.model_dim if projection is None else len(projection[0])
    size = usual_token_bytes(identity["storage_dtype"], dim)
    captions = choose_captions(checkpoint.config, size, device.type, sample)
    record: dict[str, Any] = {
        "model": job.encoder.source.model,
        "inputs": [show_invisible(hide_credentials(path)) for path in job.inputs],
        "device": str(device),
    }
    if preparer.recipe is not None and preparer.recipe.source:
        record["recipe_source"] = preparer.recipe.source
    if preparer.recipe is None and checkpoint.modules is not None:
        record["pooling_modules"] = checkpoint.modules.names
    return FrozenJob(
        identity=identity,
        rows_per_shard=job.rows_per_shard or captions,
        captions_per_shard=None if job.rows_per_shard else captions,
        bytes_per_shard=None if job.rows_per_shard else SHARD_BYTES,
        dim=dim,
        schema=schema_to_text(schema),
        record=record,
        has_keys=True,
    )


def name_storage(job: EncodeJob, there: FrozenJob | None) -> str:
    """The codec of the job's embeddings; what was begun as int8 of release 0.1 goes on as that."""
    asked = job.storage_dtype
    return asked if there is not None and there.storage_dtype == asked else name_codec(asked)


def choose_captions(config: EncoderConfig, row_bytes: int, device: str, sample: Sample) -> int:
    """Captions of a shard: about 256 MB of embeddings, no more than 20 s of work, no more than 8192.

    `row_bytes` are those of one row of an embedding as it is stored.
    """
    by_size = SHARD_BYTES / (max(sample.mean, 1.0) * row_bytes)
    by_time = SHARD_SECONDS / (max(sample.mean_computed, 1.0) * seconds_per_token(config, device))
    return max(1, min(MOST_CAPTIONS, int(by_size), int(by_time)))


def choose_units(config: EncoderConfig, device: str, sample: Sample, captions: float) -> int:
    """Units of a span: about a minute of work, no more than forty; `captions` are the mean ones of a unit."""
    seconds = sample.mean_computed * seconds_per_token(config, device) * captions
    return max(1, min(MOST_UNITS, int(SPAN_SECONDS / max(seconds, 1e-9))))


def seconds_per_token(config: EncoderConfig, device: str) -> float:
    """A rough guess, to size work by."""
    cores = 1 if device == "cuda" else os.cpu_count() or 1
    return flops_per_token(config) / (SPEEDS["cuda" if device == "cuda" else "cpu"] * cores)


def flops_per_token(config: EncoderConfig) -> float:
    """Floating-point operations of the matrix products for one token; attention over short texts adds little."""
    attention = 4 * config.model_dim * config.inner_dim
    feed_forward = (3 if config.is_gated else 2) * config.model_dim * config.ff_dim
    return 2.0 * config.num_layers * (attention + feed_forward)
