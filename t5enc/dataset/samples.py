"""What a dataset gives: one row, or a padded batch of rows.

B rows of a batch, S the padded length, M model dim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from t5enc.embeddings import Embeddings
from t5enc.errors import InputError
from t5enc.recipes.conditioning import Conditioning, PipelineInputs


class Key(NamedTuple):
    """Where a caption stood in the job's input: the file, its row there, and which of the row's captions it is."""

    source: str
    row: int
    caption_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One row: its embedding (tokens, M), asked columns and key. A dropped one has the null prompt's rows."""

    embedding: Tensor
    columns: Mapping[str, Any]
    key: Key
    dropped: bool = False

    @property
    def num_tokens(self) -> int:
        """Rows of the embedding; none for a row without one."""
        return len(self.embedding)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """`embeddings` (B, S, M) are zeros from `lengths` (B,) on, and `mask` (B, S) is true before.

    `columns` have a list of B values each. `dropped` (B,) are those with the null prompt's rows in place of their own.
    """

    embeddings: Tensor
    lengths: Tensor
    mask: Tensor
    columns: Mapping[str, list[Any]]
    keys: list[Key]
    dropped: Tensor
    conditioning: Conditioning | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: Any) -> NoReturn:
        """InputError: it is what torch's own collate function asks for first."""
        raise InputError("Batch: expected DataLoader(..., collate_fn=data.collate), got none: a batch is whole already")

    @property
    def ragged(self) -> Embeddings:
        """The same rows end to end, without pads."""
        embeddings = Embeddings.from_lengths(self.embeddings[self.mask], self.lengths)
        return replace(embeddings, conditioning=self.conditioning)

    def to_pipeline(self) -> PipelineInputs:
        """What the recipe's pipeline hands to its transformer for these rows; InputError without a recipe."""
        return self.ragged.to_pipeline()

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, from which an accelerator takes it in the background; itself without one."""
        return self._map(Tensor.pin_memory) if torch.accelerator.is_available() else self

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def _map(self, change: Any) -> Batch:
        names = ("embeddings", "lengths", "mask", "dropped")
        return replace(self, **{name: change(getattr(self, name)) for name in names})


def collate(samples: Sequence[Sample], pad_to: int | None, conditioning: Conditioning | None) -> Batch:
    """A batch of at least one sample; InputError for none, or for one longer than `pad_to`."""
    if not samples:
        raise InputError("collate: expected at least one sample, got none")
    lengths = [sample.num_tokens for sample in samples]
    size = find_size(lengths, pad_to)
    first = samples[0].embedding
    embeddings = first.new_zeros(len(samples), size, first.shape[1])
    for place, sample in enumerate(samples):
        embeddings[place, : lengths[place]] = sample.embedding
    counts = torch.tensor(lengths)
    return Batch(
        embeddings=embeddings,
        lengths=counts,
        mask=torch.arange(size) < counts[:, None],
        columns={name: [sample.columns[name] for sample in samples] for name in samples[0].columns},
        keys=[sample.key for sample in samples],
        dropped=torch.tensor([sample.dropped for sample in samples]),
        conditioning=conditioning,
    )


def find_size(lengths: Sequence[int], pad_to: int | None) -> int:
    """S of rows of these lengths; InputError for one longer than `pad_to`."""
    longest = max(lengths, default=0)
    if pad_to is None:
        return longest
    if longest > pad_to:
        raise InputError(f"pad_to: expected at least the longest row's {longest} tokens, got {pad_to}")
    return pad_to
