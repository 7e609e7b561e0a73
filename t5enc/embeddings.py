"""Ragged embeddings: the tokens of all texts end to end.

N texts, T tokens of all of them, M model dim, S padded length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import torch
from torch import Tensor

from t5enc.errors import InputError
from t5enc.pooling import Pooler
from t5enc.recipes.conditioning import Conditioning, PipelineInputs, build_inputs


@dataclass(frozen=True, slots=True)
class Embeddings:
    """`values` (T, M) holds text i in rows `offsets[i]` to `offsets[i + 1]`; a text without embedding has none.

    `conditioning` says what recipe they were made by, if any, and `pooler` how their checkpoint pools them, if it says.
    """

    values: Tensor
    offsets: Tensor
    conditioning: Conditioning | None = None
    pooler: Pooler | None = None

    def __post_init__(self) -> None:
        if self.values.dim() != 2 or self.offsets.dim() != 1 or len(self.offsets) < 1:
            raise InputError(
                f"Embeddings: expected values (T, M) and offsets (N + 1,), got "
                f"{tuple(self.values.shape)} and {tuple(self.offsets.shape)}"
            )
        if int(self.offsets[-1]) > len(self.values):
            raise InputError(f"Embeddings: offsets end at {int(self.offsets[-1])}, values at {len(self.values)}")

    @classmethod
    def from_lengths(cls, values: Tensor, lengths: Sequence[int] | Tensor) -> Embeddings:
        """Embeddings of texts that lie end to end in `values`."""
        counts = torch.as_tensor(lengths, dtype=torch.int64)
        return cls(values, torch.cat([counts.new_zeros(1), counts.cumsum(0)]))

    @classmethod
    def concatenate(cls, parts: Sequence[Embeddings]) -> Embeddings:
        """The texts of all parts, in order; a single part is returned as it is."""
        if len(parts) == 1:
            return parts[0]
        values = torch.cat([part.values[int(part.offsets[0]) : int(part.offsets[-1])] for part in parts])
        joined = cls.from_lengths(values, torch.cat([part.lengths for part in parts]))
        return replace(joined, conditioning=parts[0].conditioning, pooler=parts[0].pooler)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Embeddings: ...
    def __getitem__(self, index: int | slice) -> Tensor | Embeddings:
        """(tokens, M) of one text, or the embeddings of consecutive texts; both are views."""
        if isinstance(index, slice):
            return self._slice(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        index %= len(self)
        return self.values[int(self.offsets[index]) : int(self.offsets[index + 1])]

    def _slice(self, index: slice) -> Embeddings:
        start, stop, step = index.indices(len(self))
        if step != 1:
            raise IndexError(f"Embeddings: expected a slice of step 1, got {step}")
        offsets = self.offsets[start : max(start, stop) + 1]
        values = self.values[int(offsets[0]) : int(offsets[-1])]
        return replace(self, values=values, offsets=offsets - offsets[0])

    @property
    def lengths(self) -> Tensor:
        """(N,) tokens of each text."""
        return self.offsets.diff()

    @property
    def dim(self) -> int:
        """M, the width of a token's embedding."""
        return self.values.shape[1]

    def to_padded(self, length: int | None = None) -> tuple[Tensor, Tensor]:
        """(N, S, M) zero-padded on the right and the (N, S) bool mask of real tokens.

        `length` is S, the longest text's by default; a longer text raises InputError.
        """
        longest = int(self.lengths.max()) if len(self) else 0
        size = longest if length is None else length
        if longest > size:
            raise InputError(f"to_padded: expected length of at least the longest text's {longest}, got {size}")
        mask = torch.arange(size) < self.lengths[:, None].cpu()
        padded = self.values.new_zeros(len(self), size, self.dim)
        padded[mask.to(padded.device)] = self.values[int(self.offsets[0]) : int(self.offsets[-1])]
        return padded, mask.to(padded.device)

    def to_pipeline(self) -> PipelineInputs:
        """What the recipe's pipeline hands to its transformer for these N captions, and for none.

        InputError for embeddings that no recipe made.
        """
        if self.conditioning is None:
            raise InputError("to_pipeline: expected embeddings made by a recipe (recipe=...), got none")
        return build_inputs(list(self), self.conditioning)

    def pooled(
        self, method: str | None = None, *, normalize: bool | None = None, pooler: Pooler | None = None
    ) -> Tensor:
        """(N, P) float32: one vector a text; zeros for a text without tokens.

        A checkpoint of sentence-transformers (sentence-t5, gtr-t5) is pooled by its own modules: `method` can but
        name theirs, and `normalize=False` leaves out the last of them, where it gives vectors unit length. Others by
        the mean of their tokens, or by `method`: first, max, lasttoken and the like. `pooler` is the checkpoint's, for
        embeddings that come without (`t5enc.open_pooler`).

        ConfigError for modules that are not known, or that are not at hand, InputError for another method.
        """
        return (pooler or self.pooler or Pooler()).choose(method).pool(self, self.dim, normalize=normalize)
