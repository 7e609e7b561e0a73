"""Drawn rows with their captions, as the job's recipe and length prepare them, a piece at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from t5enc.checks.output.captions import CaptionFiles
from t5enc.checks.output.claims import Claims
from t5enc.checks.output.findings import Findings
from t5enc.checks.output.row_checks import PreparedRow, check_caption, check_labels, check_missing
from t5enc.checks.output.stored import Numbers, StoredRow, StoredRows
from t5enc.errors import ConfigError, SourceError
from t5enc.text.preparer import Preparer

# Rows that are read and encoded at a time: a few hundred MB of the largest models' embeddings.
ROWS_AT_A_TIME = 32


@dataclass(slots=True)
class PreparedRows:
    """Reads rows, checks all but their numbers, and gives those that have an embedding and a caption.

    `files` are where captions stand that were not kept; `missing` counts rows without an embedding.
    """

    stored: StoredRows
    files: CaptionFiles | None
    claims: Claims
    preparer: Preparer
    findings: Findings
    missing: int = 0

    def read(self, numbers: NDArray[np.int64], progress: Callable[[str], None]) -> Iterator[list[PreparedRow]]:
        """Some at a time, in order."""
        for first in range(0, len(numbers), ROWS_AT_A_TIME):
            progress(f"rows {first:,} of {len(numbers):,}")
            yield self._check(self.stored.read(numbers[first : first + ROWS_AT_A_TIME]))

    def _check(self, rows: Sequence[StoredRow]) -> list[PreparedRow]:
        there: list[tuple[StoredRow, str]] = []
        for row in rows:
            is_known, caption = self._find_caption(row)
            if row.columns["error"] is not None:
                self.missing += 1
                check_missing(row, self.findings, caption, is_known=is_known)
                continue
            check_labels(row, self.claims, self.findings)
            if caption is None and self.files is None and self.claims.is_derived:
                raise ConfigError(
                    f"captions: expected the files of {row.columns['source']!r} with --captions, since an output that "
                    f"this one was made of did not keep its column {self.claims.text_column!r}, got none"
                )
            told = f"{row.where}: expected a caption beside its embedding, got none"
            if is_known and self.findings.add("captions", caption is not None, told) and caption is not None:
                there.append((row, caption))
        prepared = self.prepare(there)
        for one in prepared:
            check_caption(one, self.claims, self.findings)
        return prepared

    def _find_caption(self, row: StoredRow) -> tuple[bool, str | None]:
        """Whether a row's caption is known, and the caption, which may be none."""
        try:
            return True, self._read_caption(row)
        except SourceError as error:
            if row.columns["error"] is None:
                self.findings.add("captions", False, f"{row.where}: {error}")
            return False, None

    def _read_caption(self, row: StoredRow) -> str | None:
        """The one that was kept, or else that of the files; SourceError where these do not have it."""
        return row.caption if self.files is None or row.caption is not None else self.files.find(*row.place)

    def prepare(self, rows: Sequence[tuple[StoredRow, str]]) -> list[PreparedRow]:
        """Rows with their captions, as the job encodes these."""
        found = self.preparer.prepare([caption for _, caption in rows])
        return [
            PreparedRow(row=row, caption=caption, prompt=prompt, truncated=bool(truncated))
            for (row, caption), prompt, truncated in zip(rows, found.prompts, found.truncated.tolist(), strict=True)
        ]

    def sample(self, numbers: NDArray[np.int64], count: int) -> list[PreparedRow]:
        """Up to `count` rows with an embedding, spread over the output as rows of these numbers are."""
        found: list[PreparedRow] = []
        strides = -(-len(numbers) // count)
        for stride in range(strides):
            found += self.read_near(numbers[stride::strides])
            if len(found) >= count:
                break
        return found[:count]

    def read_near(self, numbers: Numbers) -> list[PreparedRow]:
        """Some rows that have an embedding, to hold others against; nothing is checked, and no embedding read."""
        found = []
        for row in self.stored.read_columns(numbers):
            try:
                caption = self._read_caption(row)
            except SourceError:
                continue
            if caption is not None and row.columns["error"] is None:
                found.append((row, caption))
        return self.prepare(found)
