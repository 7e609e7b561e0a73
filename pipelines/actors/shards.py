"""A unit on its way from captions to embeddings: tokenized, and encoded, with care where it may kill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.actors.captions import CaptionBatch
from pipelines.plan.units import Unit
from t5enc.embeddings import Embeddings
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
    def rows(self) -> list[int]:
        """Rows that the embedding of each caption has."""
        return [0 if prompt is None else prompt.rows for prompt in self.prompts]


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


def encode_unit(
    encoder: TextEncoder,
    prepared: PreparedUnit,
    dtype: torch.dtype,
    captions: slice,
    on_rows: Callable[[torch.Tensor, NDArray[np.int64]], None] | None = None,
    chosen: NDArray[np.bool_] | None = None,
) -> EncodedTexts:
    """Embeddings of these captions of a unit; one without a text has no tokens, and one that is not `chosen`.

    `on_rows` as in `encode_ragged`.
    """
    prompts = prepared.prompts[captions]
    places = [place for place, prompt in enumerate(prompts) if prompt is not None and (chosen is None or chosen[place])]
    asked = [_prompt(prompts, place) for place in places]
    encoded = encoder.encode_ragged(asked, dtype=dtype, device="cpu", on_rows=on_rows)
    lengths = np.zeros(len(prompts), dtype=np.int64)
    lengths[places] = encoded.embeddings.lengths.numpy()
    failed = {places[place]: reason for place, reason in encoded.failed.items()}
    return EncodedTexts(Embeddings.from_lengths(encoded.embeddings.values, torch.from_numpy(lengths)), failed)


def join_encoded(one: EncodedTexts, other: EncodedTexts) -> EncodedTexts:
    """Embeddings of the same captions, each of which has tokens in one of both at most."""
    pairs = zip(one.embeddings, other.embeddings, strict=True)
    values = torch.cat([rows for pair in pairs for rows in pair])
    lengths = one.embeddings.lengths + other.embeddings.lengths
    return EncodedTexts(Embeddings.from_lengths(values, lengths), one.failed | other.failed)


def encode_carefully(
    encoder: TextEncoder,
    prepared: PreparedUnit,
    dtype: torch.dtype,
    captions: slice,
    caution: Caution,
    note: Callable[[Unit, list[int]], None],
) -> EncodedTexts:
    """Tokenize and encode captions of a suspected unit, noting what is in hand before each step that could be last."""
    texts = prepared.batch.texts
    killers = {texts[index] for index in caution.dead}
    asked = range(len(texts))[captions]
    alive = [i for i in asked if texts[i] is not None and texts[i] not in killers]
    together = [i for i in alive if i not in caution.alone]
    parts: dict[int, torch.Tensor] = {}
    failed: dict[int, str] = {}
    for group in [together, *([i] for i in alive if i in caution.alone)]:
        if not group:
            continue
        note(prepared.unit, group)
        tokenize_captions(prepared, encoder, group)
        note_stream = partial(_note_places, note, prepared.unit, group)
        prompts = [_prompt(prepared.prompts, i) for i in group]
        encoded = encoder.encode_ragged(prompts, dtype=dtype, device="cpu", on_stream=note_stream)
        parts |= dict(zip(group, encoded.embeddings, strict=True))
        failed |= {group[place] - asked.start: reason for place, reason in encoded.failed.items()}
    note(prepared.unit, [])  # what comes now, until the shard is there, is no caption's fault
    for index in asked:
        if texts[index] in killers:
            prepared.errors[index] = DIED
    empty = torch.empty(0, encoder.dim, dtype=dtype)
    rows = [parts.get(index, empty) for index in asked]
    return EncodedTexts(Embeddings.from_lengths(torch.cat([empty, *rows]), [len(row) for row in rows]), failed)


def _note_places(note: Callable[[Unit, list[int]], None], unit: Unit, group: list[int], places: list[int]) -> None:
    note(unit, [group[place] for place in places])


def _prompt(prompts: Sequence[Prompt | None], index: int) -> Prompt:
    prompt = prompts[index]
    assert prompt is not None
    return prompt
