"""`t5enc plan --codecs`: what each way to store embeddings takes and loses, by a few captions encoded for it."""

from __future__ import annotations

from dataclasses import replace

import torch
from rich.table import Table

from pipelines.progress.storage_error import StorageError, show_error
from pipelines.run.resolved_job import ResolvedJob
from t5enc import TextEncoder
from t5enc.embeddings import Embeddings
from t5enc.options import resolve_device
from t5enc.storage import STORAGE_DTYPES, to_bytes, working_dtype
from t5enc.storage.codecs.error import measure_errors

# A minute of T5-XXL on a few cores.
MOST_TOKENS = 1024


def compare_codecs(resolved: ResolvedJob, *, tokens: int, beside: int) -> Table:
    """A row a codec; the whole output is of so many tokens, and of bytes `beside` them."""
    embeddings = encode_sample(resolved)
    sampled = f"{len(embeddings):,} captions of the sample, {len(embeddings.values):,} tokens"
    title = f"stored as: what it takes and loses, by {sampled}, computed in {resolved.frozen.identity['dtype']}"
    table = Table("stored as", title=title, title_justify="left")
    for column in ("bits a number", "output, GB", "median error", "p99", "worst"):
        table.add_column(column, justify="right")
    for storage in STORAGE_DTYPES:
        size, error = measure(embeddings, storage)
        total = tokens * size + beside
        bits = 8 * size / embeddings.values.shape[1]
        table.add_row(storage, f"{bits:.4g}", f"{total / 1e9:,.3g}", *map(show_error, error.summarize().values()))
    return table


def measure(embeddings: Embeddings, storage: str) -> tuple[float, StorageError]:
    """Bytes of a token as a codec stores it, on average, and the error of each."""
    error = StorageError()
    error.count(measure_errors(embeddings.values, storage).tolist())
    working = embeddings.values.to(working_dtype(storage))
    size = sum(to_bytes(text, storage).size for text in Embeddings(working, embeddings.offsets))
    return size / max(1, len(working)), error


def encode_sample(resolved: ResolvedJob) -> Embeddings:
    """Captions of the sample as far as about a thousand tokens go, in float32, on the device where one is here."""
    options = replace(resolved.options, dtype=resolved.frozen.identity["dtype"], device=str(resolve_device(None)))
    encoder = TextEncoder.load(options)
    prompts = encoder.preparer.prepare(list(resolved.sample.texts)).prompts
    count, total = 0, 0
    for prompt in prompts:
        total += prompt.tokens
        count += count == 0 or total <= MOST_TOKENS
    return encoder.encode_ragged(prompts[:count], dtype=torch.float32, device="cpu").embeddings
