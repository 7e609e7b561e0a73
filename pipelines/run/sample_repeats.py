"""How many captions come again, by a sample that is spread over all files; and how fast captions are tokenized."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.actors.captions import read_captions
from pipelines.job import EncodeJob
from pipelines.plan.plan import Files
from pipelines.run.resolved_job import ResolvedJob
from t5enc.errors import SourceError
from t5enc.text.content_keys import hash_prompts
from t5enc.text.preparer import Preparer

# Places in the input, and rows that are read at each.
PLACES = 64
ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatsSample:
    """Captions with a text at some `places` of the input, distinct prompts among them, tokens to compute and seconds.

    `repeated_tokens` are those of captions whose prompt came before; `seconds` is how long one core tokenized.
    """

    places: int
    captions: int
    distinct: int
    tokens: int
    repeated_tokens: int
    seconds: float

    @property
    def share(self) -> float:
        """Of the tokens, those that need not be computed: no more than in the whole input, which has more pairs."""
        return self.repeated_tokens / self.tokens if self.tokens else 0.0

    @property
    def seconds_per_caption(self) -> float:
        """Of one core, to tokenize one."""
        return self.seconds / self.captions if self.captions else 0.0


def sample_repeats(resolved: ResolvedJob, job: EncodeJob, preparer: Preparer) -> RepeatsSample:
    """Read and tokenize some rows at places that are spread evenly over the input; what cannot be read is left out."""
    known: set[bytes] = set()
    places = captions = tokens = repeated = 0
    seconds = 0.0
    for texts in _read_texts(resolved, job):
        began = time.perf_counter()
        prompts = preparer.prepare(texts).prompts
        seconds += time.perf_counter() - began
        places, captions = places + 1, captions + len(texts)
        keys = hash_prompts(resolved.frozen.computation, prompts)
        for key, prompt in zip(map(bytes, keys), prompts, strict=True):
            tokens += prompt.tokens
            repeated += prompt.tokens if key in known else 0
            known.add(key)
    return RepeatsSample(
        places=places,
        captions=captions,
        distinct=len(known),
        tokens=tokens,
        repeated_tokens=repeated,
        seconds=seconds,
    )


def _read_texts(resolved: ResolvedJob, job: EncodeJob) -> Iterator[list[str]]:
    for place, first, rows in choose_places(resolved.files):
        span = resolved.files.at(place).span(first, rows, rows)
        try:
            for batch in read_captions(
                resolved.inputs.filesystem,
                span,
                text_column=job.text_column,
                caption_choice=job.caption_choice,
                schema=pa.schema([]),
                skip=lambda row: False,
            ):
                yield [text for text in batch.texts if text is not None]
        except SourceError:
            continue  # it is named by what reads all of it


def choose_places(files: Files) -> Sequence[tuple[int, int, int]]:
    """(file, first row, rows) of the places in order, none of whose rows are those of another: all rows of few."""
    if files.total_rows <= PLACES * ROWS and len(files) <= PLACES:
        return [(place, 0, rows) for place, rows in enumerate(files.num_rows.tolist()) if rows]
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(files.num_rows)])
    count = max(1, min(PLACES, files.total_rows // ROWS))
    chosen = np.arange(count) * (files.total_rows // count)
    numbers = np.searchsorted(starts, chosen, side="right") - 1
    rows = np.minimum(ROWS, starts[numbers + 1] - chosen)
    return list(zip(numbers.tolist(), (chosen - starts[numbers]).tolist(), rows.tolist(), strict=True))
