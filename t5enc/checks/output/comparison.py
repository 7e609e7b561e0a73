"""Stored embeddings held against those that are encoded again, a piece at a time.

T tokens, M model dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from t5enc.checks.output.diagnosis import Other, Suspect, pool
from t5enc.checks.output.distances import NEAREST, Bound, Distance, farthest, measure
from t5enc.checks.output.encoding import Encode
from t5enc.checks.output.findings import Findings
from t5enc.checks.output.row_checks import PreparedRow, check_values

# Rows that are looked into: each is encoded anew under some dozens of suppositions.
MOST_SUSPECTS = 6
SUSPECTS_OF_A_SHARD = 2
# Rows of which the mean is kept, to find whose embedding another row holds.
MOST_MEANS = 4096
# Those whose mean is nearest are tried.
MOST_LIKELY = 3


@dataclass(slots=True)
class Comparison:
    """What was compared so far; `suspects` are the first rows whose numbers are off."""

    bound: Bound
    encode: Encode
    findings: Findings
    compared: int = 0
    farthest: Distance = NEAREST
    nearest_limit: Distance = field(default_factory=lambda: Distance(row=float("inf"), token=float("inf")))
    suspects: list[Suspect] = field(default_factory=list)
    _means: list[Tensor] = field(default_factory=list)
    _others: list[Other] = field(default_factory=list)

    def add(self, rows: Sequence[PreparedRow]) -> None:
        """Compare rows that were read."""
        there = [prepared for prepared in rows if prepared.row.values is not None]
        expected = self.encode([prepared.prompt for prepared in there]) if there else []
        for prepared, values in zip(there, expected, strict=True):
            self._compare(prepared, values)
            if len(self._means) < MOST_MEANS:
                self._means.append(pool(values))
                self._others.append(Other(where=prepared.row.where, prompt=prepared.prompt))

    def _compare(self, prepared: PreparedRow, expected: Tensor) -> None:
        where, values = prepared.row.where, prepared.row.values
        assert values is not None
        if not check_values(prepared.row, values, self.findings):
            return
        self.compared += 1
        if values.shape != expected.shape:
            told = f"{where}: expected {tuple(expected.shape)}, got {tuple(values.shape)}"
            is_near = self.findings.add("numbers", False, told)
        else:
            limit, found = self.bound.limit(expected), measure(values, expected)
            self.farthest = farthest([self.farthest, found])
            self.nearest_limit = _nearest(self.nearest_limit, limit)
            told = f"{where}: expected at most {_show(limit)}, got {_show(found)}"
            is_near = self.findings.add("numbers", not found.exceeds(limit), told)
        if not is_near and self._takes(prepared):
            self.suspects.append(Suspect(prepared=prepared, values=values.float(), expected=expected))

    def _takes(self, prepared: PreparedRow) -> bool:
        """Whether one more suspect is looked into: few of a shard, whose rows are likely off for the same reason."""
        alike = [suspect for suspect in self.suspects if suspect.prepared.row.shard == prepared.row.shard]
        return len(self.suspects) < MOST_SUSPECTS and len(alike) < SUSPECTS_OF_A_SHARD

    def find_likely(self, values: Tensor) -> list[Other]:
        """The rows whose means are nearest to that of (T, M)."""
        if not self._means:
            return []
        distances = (torch.stack(self._means) - pool(values)).norm(dim=1)
        nearest = distances.topk(min(MOST_LIKELY, len(distances)), largest=False).indices
        return [self._others[place] for place in nearest.tolist()]


def _nearest(one: Distance, other: Distance) -> Distance:
    return Distance(row=min(one.row, other.row), token=min(one.token, other.token))


def _show(distance: Distance) -> str:
    return f"{distance.row:.1e} off ({distance.token:.1e} in a token)"
