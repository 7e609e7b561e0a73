"""What of which shard becomes a shard of another output, and whether that is the same file or a new one.

R rows of a shard.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.commit.records import UnitRecord
from pipelines.derive.origins import Origin
from pipelines.job import FrozenJob
from t5enc.storage.layout import name_shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A shard of an output; `source` is what its rows' source is called from now on.

    `packed` (R / 8,) has a bit for each row, which is set for those that are chosen; None where all are.
    """

    origin: Origin
    record: UnitRecord
    source: str
    packed: NDArray[np.uint8] | None = None

    def choose(self) -> NDArray[np.bool_]:
        """(R,) which rows are chosen."""
        count = self.record.counts.captions
        return np.ones(count, bool) if self.packed is None else np.unpackbits(self.packed, count=count).astype(bool)

    def is_as_it_was(self, job: FrozenJob) -> bool:
        """Whether the shard as it is can be one of this job's."""
        there = self.origin.job
        return (
            self.packed is None
            and self.source == self.record.source
            and there.has_keys == job.has_keys
            and not there.has_references
            and there.kept_schema.equals(job.kept_schema)
        )

    def name_in(self, job: FrozenJob) -> str:
        """The shard's name in the output of a job."""
        if self.is_as_it_was(job):
            return self.record.name
        key = "\0".join([job.fingerprint, self.origin.manifest_sha256, self.record.name]).encode()
        chosen = b"" if self.packed is None else b"\0" + self.packed.tobytes()
        unit_id = hashlib.sha256(key + chosen).hexdigest()[:16]
        return name_shard(self.source, self.record.first_row, unit_id)
