"""int8 with a scale a token, of outputs that release 0.1 began: read as ever, and not chosen any more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from t5enc import load_embeddings
from t5enc.storage import STORAGE_DTYPES, decode_into, from_bytes, to_bytes
from tests.t5enc.written import DIM, finish, make_embeddings, make_table, write_job, write_shard

FROZEN = "0402013c7f81004008040201fe7f0304"
rows = st.integers(1, 9).flatmap(
    lambda dim: st.lists(st.lists(st.floats(-(2.0**90), 2.0**90, width=32), min_size=dim, max_size=dim), min_size=1)
)


@given(rows)
def test_it_is_off_by_half_a_step_at_most(rows: list[list[float]]) -> None:
    values = torch.tensor(rows)
    found = from_bytes(to_bytes(values, "int8"), "int8", values.shape[1])
    # Below 1e-36 a step is itself subnormal.
    assert ((found - values).abs() <= values.abs().amax(1, keepdim=True) / 127 * 0.501 + 1e-38).all()


def test_tokens_of_zeros_are_held() -> None:
    assert not from_bytes(to_bytes(torch.zeros(2, DIM), "int8"), "int8", DIM).any()


def test_bytes_of_release_0_1_are_read_and_made() -> None:
    data = np.frombuffer(bytes.fromhex(FROZEN), np.uint8)
    scales = data.reshape(2, 8)[:, :4].copy().view(np.float32)
    expected = torch.from_numpy(scales * np.array([[127, -127, 0, 64], [-2, 127, 3, 4]], np.float32))
    assert torch.equal(from_bytes(data, "int8", DIM), expected)
    assert to_bytes(expected, "int8").tobytes().hex() == FROZEN
    batch = torch.zeros(3, DIM)
    decode_into(data, "int8", batch[1:])
    assert torch.equal(batch[1:], expected)


def test_an_output_of_release_0_1_is_read(tmp_path: Path) -> None:
    write_job(tmp_path, storage_dtype="int8")
    name = "data/a_/000000-0000000000000000.parquet"
    write_shard(tmp_path, name, make_table(["x", "y"], make_embeddings([2, 1]), storage="int8"))
    finish(tmp_path, [name])
    table, found = load_embeddings(tmp_path)
    assert table["text_embedding_dtype"].to_pylist() == ["int8"] * 2
    expected = make_embeddings([2, 1])
    assert found.lengths.tolist() == [2, 1]
    torch.testing.assert_close(found.values, expected.values, rtol=0, atol=float(expected.values.abs().max()) / 250)


def test_no_new_output_is_written_in_it() -> None:
    assert "int8" not in STORAGE_DTYPES
