"""The null prompt of a job's recipe, written before any shard is: by the first actor that has the model."""

from __future__ import annotations

import torch

from pipelines.job import FrozenJob
from pipelines.stores.store import Store
from t5enc.options import EncoderOptions
from t5enc.recipes.conditioning import Conditioning
from t5enc.storage import working_dtype
from t5enc.storage.layout import NULL
from t5enc.storage.null_prompt import read_fingerprint, serialize_null
from t5enc.text_encoder import TextEncoder


def is_null_there(store: Store, job: FrozenJob) -> bool:
    """Whether the output has what its recipe needs; without a recipe nothing is needed."""
    if job.recipe is None:
        return True
    try:
        return read_fingerprint(store.read(NULL)) == job.fingerprint
    except FileNotFoundError:
        return False


def write_null(store: Store, job: FrozenJob, conditioning: Conditioning | None) -> None:
    """Store it; whatever stood there was of another generation, or damaged."""
    assert conditioning is not None
    dtype: torch.dtype = working_dtype(job.storage_dtype)
    store.replace(NULL, serialize_null(conditioning, dim=job.dim, dtype=dtype, fingerprint=job.fingerprint))


def compute_null(encoder: TextEncoder) -> Conditioning | None:
    """What `write_null` takes, for an actor's thread."""
    return encoder.conditioning


def mend_null(store: Store, job: FrozenJob, options: EncoderOptions) -> None:
    """Compute it here where a finished job has lost it: every shard is there, so that no actor was started."""
    if not is_null_there(store, job):
        write_null(store, job, compute_null(TextEncoder.load(options)))
