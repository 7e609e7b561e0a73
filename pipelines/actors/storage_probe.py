"""A few tokens of each unit as the model gave them, to tell what storing costs.

T tokens of a stream, M model dim.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.plan.units import Unit
from pipelines.progress.storage_error import StorageError
from t5enc.storage.codecs.error import measure_errors

# Of a unit: a megabyte of T5-XXL, whose storing and reading takes milliseconds.
TOKENS = 64


class StorageProbe:
    """Draws the same tokens of a unit in every run, some of each stream."""

    def __init__(self, unit: Unit, rows: int) -> None:
        """`rows` are those that the unit's captions may have together."""
        self._share = TOKENS / max(1, rows)
        self._random = np.random.default_rng(int(unit.id, 16))
        self._left = TOKENS
        self._parts: list[Tensor] = []

    def take(self, hidden: Tensor, kept: NDArray[np.int64]) -> None:
        """Draw of a stream's (T, M), of which the rows `kept` are stored."""
        count = min(self._left, int(np.ceil(self._share * len(kept))))
        if count:
            places = torch.from_numpy(self._random.choice(kept, count))
            self._parts.append(hidden[places.to(hidden.device)].float().cpu())
            self._left -= count

    def measure(self, storage: str) -> StorageError:
        """What storing costs of the tokens drawn so far."""
        found = StorageError()
        if self._parts:
            found.count(measure_errors(torch.cat(self._parts), storage).tolist())
        return found
