"""EmbeddingDataset: rows of outputs by number, for a training loop.

N rows, B rows of a batch, S the padded length, M model dim, G row groups.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Literal, overload

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from t5enc.dataset.catalog import MISSING, Catalog, Missing, Path, open_catalog
from t5enc.dataset.draws import Draw
from t5enc.dataset.filling import Null, read_padded
from t5enc.dataset.lookup import Groups, Lookup, group_rows
from t5enc.dataset.rows import Rows
from t5enc.dataset.samples import Batch, Key, Sample, collate
from t5enc.errors import ConfigError, InputError, OutputError
from t5enc.recipes.conditioning import Conditioning

# Rows that are read at a time when all are asked for in order.
ROWS_AT_A_TIME = 16


class EmbeddingDataset:
    """The rows of one output or several, for torch's DataLoader and whatever else asks for items by number.

    Safe for many threads, in forked and spawned processes, and to be pickled. Nothing is decoded but what is asked for:
    a row's bytes are found from its shard's footer and read straight into the batch.
    """

    def __init__(
        self,
        paths: Path | Sequence[Path],
        *,
        columns: Sequence[str] = (),
        missing: Missing = "skip",
        pad_to: int | None = None,
        partial: bool = False,
        threads: int = 4,
        null: Tensor | Literal["zeros"] | None = None,
    ) -> None:
        """Open outputs, `paths` or URIs, one after the other.

        `columns` are kept ones that each sample has. Rows without an embedding are left out of the numbering
        (`missing="skip"`), have no tokens ("zeros"), or are refused ("error"). `pad_to` is S of every batch, its
        longest row's tokens by default. `partial` takes an output whose job is not finished as it is now. `null`
        (K, M), or zeros in place of each token, stands for the rows of dropped ones where no recipe says what does.

        OutputError for outputs that cannot be read, or are not alike; InputError for columns that they do not have.
        """
        given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        _check_options(missing, pad_to, threads)
        catalog = open_catalog(given, partial=partial)
        if not len(catalog):
            raise OutputError(f"{catalog.outputs[0].shown}: expected at least one shard, got none")
        self.columns = tuple([columns] if isinstance(columns, str) else columns)
        self.pad_to = pad_to
        self._rows = Rows(catalog, missing=missing, threads=threads)
        _check_complete(self._rows.catalog, missing)
        self._rows.check_columns(self.columns)
        self._null = _make_null(self.conditioning, null, self.dim, self.dtype)
        self._lookup = Lookup(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        shown = ", ".join(output.shown for output in self._rows.catalog.outputs)
        return f"EmbeddingDataset({shown}: {len(self)} rows, {self.dim} wide, {self.dtype})"

    @property
    def dim(self) -> int:
        """M, the width of a token's embedding."""
        return self._rows.catalog.outputs[0].dim

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of what is read, whatever it is stored as."""
        found: torch.dtype = getattr(torch, self._rows.catalog.outputs[0].working)
        return found

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """What each output's job was asked for."""
        return [output.job for output in self._rows.catalog.outputs]

    @property
    def job(self) -> dict[str, Any]:
        """What the first output's job was asked for."""
        return self.jobs[0]

    @property
    def conditioning(self) -> Conditioning | None:
        """The recipe that the embeddings were made by, and the rows of its null prompt; None without one."""
        return self._rows.catalog.outputs[0].conditioning

    @property
    def null_tokens(self) -> int | None:
        """Tokens of a dropped row; None where it has as many as before, or no row can be dropped."""
        return None if self._null is None or self._null.rows is None else len(self._null.rows)

    @property
    def max_lengths(self) -> list[Any]:
        """The tokens that each output's captions were cut to."""
        return [job["identity"].get("max_length") for job in self.jobs]

    @cached_property
    def numbering(self) -> str:
        """Letters that tell which rows have which numbers: the same for all outputs of the same captions."""
        return self._rows.digest_numbering()

    @overload
    def __getitem__(self, index: int | Draw) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Batch: ...
    def __getitem__(self, index: int | Draw | slice) -> Sample | Batch:
        """One row, or a batch of those of a slice; a negative number counts from the end."""
        if isinstance(index, slice):
            return self.__getitems__(range(*index.indices(len(self))))
        batch = self._read([index], None)
        return Sample(
            embedding=batch.embeddings[0],
            columns={name: values[0] for name, values in batch.columns.items()},
            key=batch.keys[0],
            dropped=bool(batch.dropped[0]),
        )

    def __getitems__(self, indices: Iterable[int | Draw]) -> Batch:
        """A padded batch of rows in this order, which may be none, or have one more than once."""
        return self._read(indices, self.pad_to)

    def __iter__(self) -> Iterator[Sample]:
        for first in range(0, len(self), ROWS_AT_A_TIME):
            batch = self._read(range(first, min(first + ROWS_AT_A_TIME, len(self))), None)
            for place, length in enumerate(batch.lengths.tolist()):
                yield Sample(
                    embedding=batch.embeddings[place, :length].clone(),
                    columns={name: values[place] for name, values in batch.columns.items()},
                    key=batch.keys[place],
                )

    def collate(self, samples: Batch | Sequence[Sample]) -> Batch:
        """A padded batch of samples; a batch as it is, for loaders that ask for many rows at once."""
        return samples if isinstance(samples, Batch) else collate(samples, self.pad_to, self.conditioning)

    def _read(self, indices: Iterable[int | Draw], pad_to: int | None) -> Batch:
        numbers, dropped = self._number(indices)
        if dropped.any() and self._null is None:
            raise InputError(
                "dropped rows: expected outputs of a recipe with a null prompt, or null= (K, M) or 'zeros', got neither"
            )
        embeddings, lengths = read_padded(self._rows, numbers, dropped, self._null, pad_to)
        counts = torch.from_numpy(lengths)
        return Batch(
            embeddings=embeddings,
            lengths=counts,
            mask=torch.arange(embeddings.shape[1]) < counts[:, None],
            columns={name: self._rows.read_values(name, numbers) for name in self.columns},
            keys=self._read_keys(numbers),
            dropped=torch.from_numpy(dropped),
            conditioning=self.conditioning,
        )

    def _number(self, indices: Iterable[int | Draw]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(B,) row numbers from 0, and which are dropped; IndexError for one that is out of range."""
        if isinstance(indices, np.ndarray | Tensor):
            return self._check_range(_read_numbers(indices)), np.zeros(len(indices), np.bool_)
        draws = [index if isinstance(index, tuple) else (index, False) for index in indices]
        numbers = np.array([operator.index(row) for row, _ in draws], np.int64)
        return self._check_range(numbers), np.array([bool(is_dropped) for _, is_dropped in draws], np.bool_)

    def _check_range(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row numbers from 0; IndexError for one that is out of range."""
        for number in numbers[(numbers < -len(self)) | (numbers >= len(self))].tolist():
            raise IndexError(f"row {number} of {len(self)}")
        numbers[numbers < 0] += len(self)
        return numbers

    def _read_keys(self, numbers: NDArray[np.int64]) -> list[Key]:
        found: list[Key] = [Key("", 0, 0)] * len(numbers)
        for shard, chosen, places in self._rows.split(numbers):
            index, source = self._rows.index(shard), self._rows.source(shard)
            rows, captions = index.find_keys(places)
            for place, row, caption in zip(chosen.tolist(), rows.tolist(), captions.tolist(), strict=True):
                found[place] = Key(source, row, caption)
        return found

    def lengths(self, rows: Sequence[int] | NDArray[np.int64] | None = None) -> NDArray[np.int32]:
        """(N,) tokens of all rows, or of these; shards that were not read before are, which for all takes time."""
        return self._rows.survey()[0] if rows is None else self._rows.lengths(self._number(rows)[0])

    def row_group_offsets(self) -> NDArray[np.int64]:
        """(G + 1,) the first row of each row group, in the dataset's numbering, and N."""
        return self._rows.survey()[1]

    def read_column(self, name: str) -> pa.ChunkedArray:
        """A kept or key column of all rows."""
        self._rows.check_columns([name])
        return self._rows.read_column(name)

    def groups(self, by: str) -> Groups:
        """Rows that have the same value of a column; `by="row"`: that are captions of the same row of the input."""
        return group_rows(self._rows, by)

    def find(self, source: str, row: int, caption_index: int = 0) -> int:
        """The row of a caption of the input; UnknownRowError where there is none, OutputError where there are two."""
        return self._lookup.find(source, row, caption_index)

    def find_by(self, column: str, value: Any) -> int:
        """The row that has a value in a column; UnknownRowError where none has, OutputError where two have."""
        return self._lookup.find_by(column, value)

    def find_caption(self, text: str) -> NDArray[np.int64]:
        """All rows of a caption, by the column that the job encoded; UnknownRowError where there are none."""
        return self._lookup.find_caption(text)


def _read_numbers(indices: NDArray[Any] | Tensor) -> NDArray[np.int64]:
    """(B,) row numbers of an array, to be written to; InputError for what are none, as a mask."""
    given = np.asarray(indices)
    if given.ndim != 1 or (given.dtype.kind not in "iu" and len(given)):
        raise InputError(f"rows: expected (B,) whole numbers, got {given.shape} of {given.dtype}")
    if given.dtype == np.uint64:
        given = np.minimum(given, np.uint64(np.iinfo(np.int64).max))
    return given.astype(np.int64)


def _check_options(missing: str, pad_to: int | None, threads: int) -> None:
    if missing not in MISSING:
        raise ConfigError(f"missing: expected one of {', '.join(MISSING)}, got {missing!r}")
    if pad_to is not None and pad_to < 1:
        raise ConfigError(f"pad_to: expected at least 1, got {pad_to}")
    if threads < 1:
        raise ConfigError(f"threads: expected at least 1, got {threads}")


def _check_complete(catalog: Catalog, missing: Missing) -> None:
    """OutputError where rows without embedding are to be an error, and there are some."""
    bad = np.flatnonzero(catalog.errors[: len(catalog)] > 0)
    if missing == "error" and len(bad):
        raise OutputError(
            f"{int(catalog.errors[bad].sum())} rows have no embedding, the first of them in "
            f"{catalog.find_path(int(bad[0]))}; leave them out with missing='skip', or take missing='zeros'"
        )


def _make_null(
    conditioning: Conditioning | None, given: Tensor | Literal["zeros"] | None, dim: int, dtype: torch.dtype
) -> Null | None:
    """What stands for dropped rows: what was given, or the null prompt as the recipe's pipeline has it.

    Where a pipeline's null is zeros under the positive's mask, each token of a row is zeros; else none is left of it.
    """
    if isinstance(given, Tensor):
        if given.dim() != 2 or given.shape[1] != dim:
            raise InputError(f"null: expected (K, {dim}), got {tuple(given.shape)}")
        return Null(rows=given.detach().to("cpu", dtype))
    if given == "zeros":
        return Null(rows=None)
    if given is not None:
        raise ConfigError(f"null: expected a tensor or 'zeros', got {given!r}")
    if conditioning is None or conditioning.recipe.null == "none":
        return None
    if conditioning.recipe.null == "zeros":
        keeps = conditioning.recipe.null_mask == "positive"
        return Null(rows=None if keeps else torch.empty(0, dim, dtype=dtype))
    return None if conditioning.null is None else Null(rows=conditioning.null.to(dtype))
