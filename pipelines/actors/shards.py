"""A unit on its way from captions to a shard: tokenized, encoded, laid out as a table with its record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipelines.actors.captions import CaptionBatch
from pipelines.commit.counts import Counts
from pipelines.commit.records import UnitRecord
from pipelines.commit.shard_file import hash_content
from pipelines.inputs.valid_text import mend_texts
from pipelines.job import FrozenJob
from pipelines.plan.units import Unit
from t5enc.embeddings import Embeddings
from t5enc.storage import CaptionKeys, build_table
from t5enc.text.preparer import PreparedTexts
from t5enc.text.prompts import Prompt
from t5enc.text_encoder import EncodedTexts, TextEncoder

DIED = "encoder died"


class Prepares(Protocol):
    """A Preparer, or a TextEncoder, which has one."""

    def prepare(self, texts: Sequence[str]) -> PreparedTexts:
        """Prompts of N captions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedUnit:
    """N captions of a unit; those with a text have a prompt, and a length before it was cut; the others an error."""

    unit: Unit
    batch: CaptionBatch
    prompts: list[Prompt | None]
    truncated: NDArray[np.bool_]
    lengths: NDArray[np.int64]
    errors: list[str | None]

    @property
    def with_prompts(self) -> list[int]:
        """Captions that can be encoded."""
        return [index for index, prompt in enumerate(self.prompts) if prompt is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caution:
    """How to encode a unit that is suspected of killing its process.

    Captions `alone` get a stream of their own, `dead` ones and all of the same text none. An `accused` one was the
    only one in hand when its process died, once.
    """

    alone: frozenset[int] = frozenset()
    accused: frozenset[int] = frozenset()
    dead: frozenset[int] = frozenset()


def prepare_unit(unit: Unit, batch: CaptionBatch, preparer: Prepares, *, tokenize: bool = True) -> PreparedUnit:
    """Tokenize a unit's captions; without `tokenize` that is left to `encode_carefully`."""
    count = len(batch.texts)
    prepared = PreparedUnit(
        unit=unit,
        batch=batch,
        prompts=[None] * count,
        truncated=np.zeros(count, dtype=bool),
        lengths=np.zeros(count, dtype=np.int64),
        errors=list(batch.reasons),
    )
    if tokenize:
        tokenize_captions(prepared, preparer, [i for i, text in enumerate(batch.texts) if text is not None])
    return prepared


def tokenize_captions(prepared: PreparedUnit, preparer: Prepares, captions: list[int]) -> None:
    """Fill in the prompts of these captions."""
    texts = [text for i in captions if (text := prepared.batch.texts[i]) is not None]
    made = preparer.prepare(texts)
    prepared.truncated[captions], prepared.lengths[captions] = made.truncated, made.lengths
    for index, prompt in zip(captions, made.prompts, strict=True):
        prepared.prompts[index] = prompt


def encode_unit(encoder: TextEncoder, prepared: PreparedUnit, dtype: torch.dtype) -> EncodedTexts:
    """Embeddings of all N captions; one without a text has no tokens."""
    captions = prepared.with_prompts
    encoded = encoder.encode_ragged([_prompt(prepared, i) for i in captions], dtype=dtype, device="cpu")
    lengths = np.zeros(len(prepared.prompts), dtype=np.int64)
    lengths[captions] = encoded.embeddings.lengths.numpy()
    failed = {captions[place]: reason for place, reason in encoded.failed.items()}
    return EncodedTexts(Embeddings.from_lengths(encoded.embeddings.values, torch.from_numpy(lengths)), failed)


def encode_carefully(
    encoder: TextEncoder,
    prepared: PreparedUnit,
    dtype: torch.dtype,
    caution: Caution,
    note: Callable[[Unit, list[int]], None],
) -> tuple[PreparedUnit, EncodedTexts]:
    """Tokenize and encode a suspected unit, noting what is in hand before each step that could be the last."""
    texts = prepared.batch.texts
    killers = {texts[index] for index in caution.dead}
    captions = [i for i, text in enumerate(texts) if text is not None and text not in killers]
    together = [i for i in captions if i not in caution.alone]
    parts: dict[int, torch.Tensor] = {}
    failed: dict[int, str] = {}
    for group in [together, *([i] for i in captions if i in caution.alone)]:
        if not group:
            continue
        note(prepared.unit, group)
        tokenize_captions(prepared, encoder, group)
        note_stream = partial(_note_places, note, prepared.unit, group)
        prompts = [_prompt(prepared, i) for i in group]
        encoded = encoder.encode_ragged(prompts, dtype=dtype, device="cpu", on_stream=note_stream)
        parts |= dict(zip(group, encoded.embeddings, strict=True))
        failed |= {group[place]: reason for place, reason in encoded.failed.items()}
    note(prepared.unit, [])  # what comes now, until the shard is there, is no caption's fault
    for index in [i for i, text in enumerate(texts) if text in killers]:
        prepared.errors[index] = DIED
    empty = torch.empty(0, encoder.dim, dtype=dtype)
    rows = [parts.get(index, empty) for index in range(len(prepared.prompts))]
    embeddings = Embeddings.from_lengths(torch.cat([empty, *rows]), [len(row) for row in rows])
    return prepared, EncodedTexts(embeddings, failed)


def _note_places(note: Callable[[Unit, list[int]], None], unit: Unit, group: list[int], places: list[int]) -> None:
    note(unit, [group[place] for place in places])


def _prompt(prepared: PreparedUnit, index: int) -> Prompt:
    prompt = prepared.prompts[index]
    assert prompt is not None
    return prompt


def make_shard(prepared: PreparedUnit, encoded: EncodedTexts, job: FrozenJob) -> tuple[pa.Table, UnitRecord]:
    """The rows of a unit's shard and the record of what they hold."""
    errors = [encoded.failed.get(index, error) for index, error in enumerate(prepared.errors)]
    batch = prepared.batch
    kept, mended = mend_texts(batch.kept)
    keys = CaptionKeys(source=prepared.unit.source, rows=batch.rows, caption_indices=batch.caption_indices)
    table = build_table(
        kept,
        keys,
        encoded.embeddings,
        storage=job.storage_dtype,
        truncated=prepared.truncated,
        errors=errors,
    )
    tokens = table["text_embedding_num_tokens"].to_numpy()
    bad = sum(error is not None for error in errors)
    record = UnitRecord(
        name=prepared.unit.name,
        source=prepared.unit.source,
        first_row=prepared.unit.first_row,
        content=hash_content(table),
        counts=Counts(
            input_rows=prepared.unit.num_rows,
            captions=len(errors),
            encoded=len(errors) - bad,
            errors=bad,
            died=errors.count(DIED),
            truncated=table["text_embedding_truncated"].to_pylist().count(True),
            tokens=int(tokens.sum()),
            mended=mended,
            longest=int(prepared.lengths.max(initial=0)),
        ),
    )
    return table, record
