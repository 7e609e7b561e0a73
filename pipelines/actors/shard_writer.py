"""A unit's shard, written while the unit is encoded: what is held at a time is a piece of it, however large it is.

A unit is one piece but for a row of very many captions, or rows that differ more than their file's footer tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.actors.shards import DIED, PreparedUnit
from pipelines.actors.storage_probe import StorageProbe
from pipelines.commit.counts import Counts
from pipelines.commit.records import UnitRecord
from pipelines.commit.shard_file import GROUP_ROWS, ROW_GROUP_BYTES, ContentHash, ShardFile, count_rows, cut_by_size
from pipelines.inputs.valid_text import mend_texts
from pipelines.job import FrozenJob
from pipelines.progress.findings import Findings
from pipelines.reuse.copying import Copied
from t5enc.storage import NOT_SHARED, CaptionKeys, build_keys, build_table, working_dtype
from t5enc.storage.schema import measure_values
from t5enc.text.content_keys import hash_prompts
from t5enc.text_encoder import EncodedTexts

# Twice what units are cut to, so that a unit is one piece.
PIECE_BYTES = 512 << 20
# Bytes of a row besides its embedding and what is kept: key, shape, dtype, flags.
ROW_BYTES = 64


class ShardWriter:
    """Takes the embeddings of a unit's `pieces`, slices of its captions, in order; the last it writes at the end."""

    def __init__(self, prepared: PreparedUnit, job: FrozenJob, lengths: Sequence[int] | NDArray[np.int64]) -> None:
        """`lengths` are the tokens that each caption may have."""
        self.prepared = prepared
        self.job = job
        token = job.dim * working_dtype(job.storage_dtype).itemsize
        self.pieces = list(cut_by_size(np.asarray(lengths, np.int64) * token, PIECE_BYTES))
        self.errors: list[str | None] = []
        self.counts = Counts(input_rows=prepared.unit.num_rows)
        self.probe = StorageProbe(prepared.unit, int(np.sum(lengths)))
        self._kept_sizes = prepared.batch.kept_sizes()
        self._file = ShardFile(prepared.batch.columns.schema, job, in_memory=len(self.pieces) <= 1)
        self._hash = ContentHash(build_keys(self._keys(slice(None))))
        self._held: tuple[slice, EncodedTexts, NDArray[np.uint8] | None, Copied | None] | None = None
        self.findings = Findings()

    def _keys(self, captions: slice) -> CaptionKeys:
        batch, source = self.prepared.batch, self.prepared.unit.source
        return CaptionKeys(source=source, rows=batch.rows[captions], caption_indices=batch.caption_indices[captions])

    def hash_prompts(self, captions: slice) -> NDArray[np.uint8]:
        """(N, 16) content keys of a piece."""
        return hash_prompts(self.job.computation, self.prepared.prompts[captions])

    def add(
        self,
        captions: slice,
        encoded: EncodedTexts,
        content_keys: NDArray[np.uint8] | None = None,
        copied: Copied | None = None,
    ) -> None:
        """Hold the embeddings of the next piece, and write the last one's.

        Those that were `copied` have no tokens among the others. `content_keys` are the piece's, if they are at hand.
        """
        self._write_held()
        self._held = captions, encoded, content_keys, copied

    def finish(self) -> tuple[UnitRecord, Any]:
        """The record of the unit, and the bytes of its shard."""
        self._write_held()
        unit = self.prepared.unit
        record = UnitRecord(
            name=unit.name,
            source=unit.source,
            first_row=unit.first_row,
            content=self._hash.hexdigest(),
            modified=unit.modified,
            counts=replace(self.counts, longest=int(self.prepared.lengths.max(initial=0))),
        )
        return record, self._file.finish(record)

    def _write_held(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            self._write(*held)

    def _write(
        self, captions: slice, encoded: EncodedTexts, keys: NDArray[np.uint8] | None, copied: Copied | None
    ) -> None:
        errors = [encoded.failed.get(place, error) for place, error in enumerate(self.prepared.errors[captions])]
        rows = build_table(
            pa.table({}),
            self._keys(captions),
            encoded.embeddings,
            storage=self.job.storage_dtype,
            truncated=self.prepared.truncated[captions],
            errors=errors,
            content_keys=self._find_keys(captions, keys),
            stored=None if copied is None else copied.stored,
            has_references=self.job.has_references,
        )
        self._hash.add(rows)
        stored = measure_values(rows["text_embedding_bytes"]).to_numpy()
        sizes = stored + self._kept_sizes[captions] + ROW_BYTES
        mended = 0
        for group in cut_by_size(sizes, ROW_GROUP_BYTES, GROUP_ROWS):
            kept = self.prepared.batch.keep(slice(captions.start + group.start, captions.start + group.stop))
            kept, changed = mend_texts(kept)
            mended += changed
            self._file.write([*kept.columns, *rows.slice(group.start, group.stop - group.start).columns])
        self._count(rows, errors, mended)
        if copied is not None:
            self._count_copied(copied)

    def _find_keys(self, captions: slice, keys: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
        if not self.job.has_keys:
            return None
        return self.hash_prompts(captions) if keys is None else keys

    def _count(self, rows: pa.Table, errors: list[str | None], mended: int) -> None:
        self.errors += errors
        self.counts += replace(count_rows(rows), died=errors.count(DIED), mended=mended)

    def _count_copied(self, copied: Copied) -> None:
        stored = copied.stored
        self.counts += Counts(
            reused=len(stored.values),
            reused_tokens=int(stored.tokens.sum()),
            shared=int(np.count_nonzero(stored.shared != NOT_SHARED)),
        )
        self.findings.add_reused(copied.sources, copied.source_tokens, copied.troubles)
