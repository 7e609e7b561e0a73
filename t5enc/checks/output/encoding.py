"""Captions encoded again in float32: by our encoder, or by transformers' own class on the same weights.

B documents of a batch, S tokens of the longest, M model dim.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t5enc.checkpoint.checkpoint import Checkpoint
from t5enc.checkpoint.repository import open_projection
from t5enc.checks.precision.contenders import load_transformers, open_source
from t5enc.checks.precision.verify import free_memory
from t5enc.options import EncoderOptions
from t5enc.text.placement import finish_rows
from t5enc.text.preparer import open_preparer
from t5enc.text.prompts import Document, Prompt
from t5enc.text_encoder import TextEncoder

# Prompts -> the embedding (T, M) of each, float32 on the host.
Encode = Callable[[Sequence[Prompt]], list[Tensor]]


def load_ours(options: EncoderOptions, checkpoint: Checkpoint, *, dtype: str = "float32") -> Encode:
    """Our encoder, its products in `dtype`; a text that leaves its range has rows of NaN.

    It takes whatever fits into a stream, whose lengths may be those of another recipe.
    """
    free_memory()
    encoder = TextEncoder.load(replace(options, dtype=dtype), checkpoint)
    preparer = encoder.preparer
    encoder.preparer = replace(preparer, tokenizer=replace(preparer.tokenizer, max_length=encoder.token_budget))

    def encode(prompts: Sequence[Prompt]) -> list[Tensor]:
        encoded = encoder.encode_ragged(prompts, dtype=torch.float32, device="cpu")
        found = list(encoded.embeddings)
        return [rows * float("nan") if place in encoded.failed else rows for place, rows in enumerate(found)]

    return encode


def load_theirs(options: EncoderOptions, checkpoint: Checkpoint, *, batch_size: int) -> Encode:
    """transformers' encoder class in float32, in padded batches of so many documents.

    Ids, masks and what a recipe does to the rows are ours. ConfigError for what transformers cannot load.
    """
    free_memory()
    with tempfile.TemporaryDirectory(prefix="t5enc-verify-") as scratch:
        source, _, _ = open_source(options, Path(scratch))
        model = load_transformers(source, "float32")
    preparer = open_preparer(options, checkpoint)
    projection = open_projection(
        preparer.recipe,
        checkpoint.repository,
        options.source.variant,
        torch.device(source.device),
        model_dim=checkpoint.config.model_dim,
    )

    @torch.no_grad()
    def encode(prompts: Sequence[Prompt]) -> list[Tensor]:
        documents = [document for prompt in prompts for document in prompt.documents]
        rows: list[Tensor] = []
        for first in range(0, len(documents), batch_size):
            rows += _encode_batch(model, documents[first : first + batch_size], source.device, projection)
        ends = list(accumulate(len(prompt.documents) for prompt in prompts))
        empty = torch.empty(0, len(projection[0]) if projection else checkpoint.config.model_dim)
        return [
            torch.cat([empty, *rows[end - len(prompt.documents) : end]])
            for prompt, end in zip(prompts, ends, strict=True)
        ]

    return encode


def _encode_batch(
    model: Any, documents: Sequence[Document], device: str, projection: tuple[Tensor, Tensor] | None
) -> list[Tensor]:
    """The kept rows of each document."""
    lengths = [len(document.ids) for document in documents]
    ids = torch.nn.utils.rnn.pad_sequence(
        [torch.from_numpy(document.ids).long() for document in documents], batch_first=True
    ).to(device)
    keys = torch.tensor([document.keys for document in documents], device=device)
    mask = (torch.arange(ids.shape[1], device=device) < keys[:, None]).long()  # (B, S)
    hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()  # (B, S, M)
    embedded = model.get_input_embeddings()(ids).float()
    flat, before = (
        torch.cat([rows[:length] for rows, length in zip(batch, lengths, strict=True)]) for batch in (hidden, embedded)
    )
    finished = torch.split(finish_rows(documents, flat, before, projection).cpu(), lengths)
    return [rows[: document.kept] for rows, document in zip(finished, documents, strict=True)]
