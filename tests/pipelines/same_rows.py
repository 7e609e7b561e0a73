"""Whether two outputs hold the same rows, however many nodes and deaths there were on the way."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import torch

from pipelines.commands.fsck import check_output
from pipelines.stores.store import open_store
from t5enc import load_embeddings
from t5enc.storage.layout import MANIFEST


def assert_equal_outputs(got: Path, expected: Path, *, rtol: float = 0.0) -> None:
    """The same rows in the same order with the same embeddings, and nothing amiss in either folder."""
    for folder in (got, expected):
        assert check_output(open_store(str(folder)), deep=True) == []
    (table, embeddings), (wanted, exact) = load_embeddings(got), load_embeddings(expected)
    assert table.equals(wanted)
    assert torch.equal(embeddings.offsets, exact.offsets)
    torch.testing.assert_close(embeddings.values, exact.values, rtol=rtol, atol=rtol)


def assert_same_rows(got: Path, expected: Path, careful: Collection[str] = ()) -> None:
    """The same rows in order, bit for bit but for units that were encoded as suspects, and nothing amiss."""
    assert_equal_outputs(got, expected, rtol=2e-5)
    (_, embeddings), (_, exact) = load_embeddings(got), load_embeddings(expected)
    is_equal = (embeddings.values == exact.values).all(dim=1)
    for unit, first, stop in list_rows(expected):
        start, end = embeddings.offsets[first], embeddings.offsets[stop]
        assert unit in careful or is_equal[start:end].all(), f"{unit}: other bits, and nobody suspected it"


def list_rows(output: Path) -> Iterator[tuple[str, int, int]]:
    """Id, first row and end of every unit, counted over the whole output."""
    first = 0
    for record in pq.read_table(output / MANIFEST, columns=["name", "captions"]).to_pylist():
        unit = record["name"].rpartition("-")[2].removesuffix(".parquet")
        yield unit, first, first + record["captions"]
        first += record["captions"]
