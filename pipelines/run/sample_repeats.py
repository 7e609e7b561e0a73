"""How many captions come again, by a sample that is spread over all files; and how fast captions are tokenized."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.actors.captions import read_captions
from pipelines.job import EncodeJob
from pipelines.plan.plan import Files, Units
from pipelines.run.resolved_job import ResolvedJob
from t5enc.errors import SourceError
from t5enc.text.content_keys import hash_prompts
from t5enc.text.preparer import Preparer

# Places in the input, and rows that are read at each.
PLACES = 64
ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatsSample:
    """Captions with a text at some `places` of the input, their tokens, and how long one core tokenized them.

    `repeated` are captions whose prompt came first in another unit, and for the first time in theirs: others are
    encoded once anyway.
    """

    places: int
    captions: int
    repeated: int
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
    known: dict[bytes, int] = {}
    seen: set[tuple[bytes, int]] = set()
    units = Units.of(resolved.files, resolved.frozen)
    places = captions = tokens = again = repeated = 0
    seconds = 0.0
    for texts, numbers in _read_texts(resolved, job, units):
        began = time.perf_counter()
        prompts = preparer.prepare(texts).prompts
        seconds += time.perf_counter() - began
        places, captions = places + 1, captions + len(texts)
        keys = hash_prompts(resolved.frozen.computation, prompts)
        for key, prompt, unit in zip(map(bytes, keys), prompts, numbers, strict=True):
            tokens += prompt.tokens
            if known.setdefault(key, unit) != unit and (key, unit) not in seen:
                again, repeated = again + 1, repeated + prompt.tokens
            seen.add((key, unit))
    return RepeatsSample(
        places=places,
        captions=captions,
        repeated=again,
        tokens=tokens,
        repeated_tokens=repeated,
        seconds=seconds,
    )


def _read_texts(resolved: ResolvedJob, job: EncodeJob, units: Units) -> Iterator[tuple[list[str], list[int]]]:
    """The texts of a stretch of rows, and the numbers of their units."""
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
                pairs = zip(batch.texts, batch.rows.tolist(), strict=True)
                there = [(text, units.find_row(place, row)) for text, row in pairs if text is not None]
                yield [text for text, _ in there], [unit for _, unit in there]
        except SourceError:
            continue  # it is named by what reads all of it


def choose_places(files: Files) -> Sequence[tuple[int, int, int]]:
    """(file, first row, rows) of some places in order, none of whose rows are those of another: all rows of few.

    Each of up to `PLACES` starts gives `ROWS` rows, of the files that follow where its own has fewer.
    """
    stops = np.cumsum(files.num_rows)
    total = files.total_rows
    count = -(-total // ROWS) if total <= PLACES * ROWS else PLACES
    starts = np.arange(count) * ROWS if count < PLACES else np.arange(count) * (total // count)
    return [part for start in starts.tolist() for part in _cut(files, stops, start, min(start + ROWS, total))]


def _cut(files: Files, stops: NDArray[np.int64], start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """The files of rows that are numbered over all of them, and which rows of each these are."""
    number = int(np.searchsorted(stops, start, side="right"))
    while start < stop:
        end, rows = int(stops[number]), int(files.num_rows[number])
        if start < end:
            yield number, start - (end - rows), min(stop, end) - start
        start, number = max(start, end), number + 1
