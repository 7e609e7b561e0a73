"""Captions in the first rows of the input: how long they are, and how many are none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipelines.actors.captions import NOT_UTF8, CaptionBatch, read_captions
from pipelines.inputs.columns.conform import ChangedValueError
from pipelines.job import EncodeJob
from pipelines.plan.units import PlannedFile
from t5enc.errors import SourceError
from t5enc.text.preparer import Preparer

# Captions of a shard, and of a sample, at the most.
MOST_CAPTIONS = 8192
SAMPLE = 1000
# Captions of a sample that are held as texts.
TEXTS = 32
# Rows that are read at a time for it.
SAMPLED_ROWS = 50
# More of a caption is longer than any limit of tokens; the driver must not fall ill of it before an actor has it.
SAMPLED_CHARACTERS = 100_000
# Where a larger share of what is no null is no UTF-8, the column holds something else: pictures, say.
MOST_UNUSABLE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Captions in some `rows` of the input: the rows that each keeps, and the tokens that are computed for each.

    `longest` is that of the longest one before it is cut. `reasons` counts those without a text, and `kept_bytes` what
    is kept beside all of them. `texts` are a few of the captions, from the first to the last.
    """

    lengths: tuple[int, ...]
    computed: tuple[int, ...]
    longest: int
    truncated: int
    rows: int
    reasons: Mapping[str, int] = field(default_factory=dict)
    kept_bytes: int = 0
    texts: tuple[str, ...] = ()

    @property
    def mean(self) -> float:
        """Mean rows a caption."""
        return sum(self.lengths) / len(self.lengths) if self.lengths else 1.0

    @property
    def captions(self) -> int:
        """Captions with a text and without."""
        return len(self.lengths) + sum(self.reasons.values())

    @property
    def captions_per_row(self) -> float:
        """Mean captions with a text of a row."""
        return len(self.lengths) / self.rows if self.rows else 1.0

    @property
    def mean_computed(self) -> float:
        """Mean tokens that are computed for a caption."""
        return sum(self.computed) / len(self.computed) if self.computed else 1.0


def take_sample(
    filesystem: Any, files: Iterable[PlannedFile], job: EncodeJob, schema: pa.Schema, preparer: Preparer
) -> Sample:
    """The captions in the first thousand rows, or in fewer where these have very many captions.

    SourceError where most of them are no text, or a column that is kept would be changed.
    """
    texts: list[str] = []
    reasons: Counter[str] = Counter()
    rows = kept_bytes = 0
    for batch in _read_first(filesystem, files, job, schema):
        texts += [text[:SAMPLED_CHARACTERS] for text in batch.texts if text is not None]
        reasons.update(reason for reason in batch.reasons if reason is not None)
        rows += batch.num_rows
        kept_bytes += int(batch.kept_sizes().sum())
        if len(texts) >= MOST_CAPTIONS:
            break
    _check_texts(job.text_column, len(texts), reasons[NOT_UTF8])
    made = preparer.prepare(texts)
    return Sample(
        lengths=tuple(prompt.rows for prompt in made.prompts),
        computed=tuple(prompt.tokens for prompt in made.prompts),
        longest=int(made.lengths.max(initial=0)),
        truncated=int(made.truncated.sum()),
        rows=rows,
        reasons=dict(reasons),
        kept_bytes=kept_bytes,
        texts=tuple(texts[:: max(1, -(-len(texts) // TEXTS))]),
    )


def _read_first(
    filesystem: Any, files: Iterable[PlannedFile], job: EncodeJob, schema: pa.Schema
) -> Iterator[CaptionBatch]:
    rows = 0
    for planned in files:
        try:
            for batch in _read_file(filesystem, planned, job, schema, SAMPLE - rows):
                rows += batch.num_rows
                yield batch
        except ChangedValueError:
            raise
        except SourceError:
            continue  # a file that is damaged further in is named when its span is read; the others can be sampled
        if rows == SAMPLE:
            break


def _read_file(
    filesystem: Any, planned: PlannedFile, job: EncodeJob, schema: pa.Schema, rows: int
) -> Iterator[CaptionBatch]:
    return read_captions(
        filesystem,
        planned.span(0, min(rows, planned.num_rows), SAMPLED_ROWS),
        text_column=job.text_column,
        caption_choice=job.caption_choice,
        schema=schema,
        skip=lambda row: False,
    )


def _check_texts(column: str, texts: int, unusable: int) -> None:
    if unusable > MOST_UNUSABLE * (texts + unusable):
        raise SourceError(
            f"column {column!r}: expected text, got bytes that are not UTF-8 in {unusable:,} of the first "
            f"{texts + unusable:,} captions: another encoding, or no text at all"
        )
