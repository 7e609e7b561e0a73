"""Numbers to bytes and back: exact where the dtype holds them, bounded where it does not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t5enc.errors import ConfigError
from t5enc.storage import (
    CODECS,
    PREFIX,
    STORAGE_DTYPES,
    check_storage_dtype,
    from_bytes,
    read_column,
    to_bytes,
    token_bytes,
    working_dtype,
)
from t5enc.storage.codecs import Codec
from tests.t5enc.storage.exactness import allowed_error, assert_reads, every_dtype, exact_dtype
from tests.t5enc.written import DIM, make_embeddings, make_table


@exact_dtype
def test_values_beyond_a_dtype_are_rounded_as_torch_rounds_them(storage: str) -> None:
    values = torch.tensor([[1 / 3, -2.7182817, 1e-3, 0.0]]).to(working_dtype(storage))
    assert torch.equal(from_bytes(to_bytes(values, storage), storage, DIM), values)


@given(st.lists(st.lists(st.floats(-(2.0**90), 2.0**90, width=32), min_size=DIM, max_size=DIM), min_size=1, max_size=5))
def test_int8_is_off_by_half_a_step_at_most(rows: list[list[float]]) -> None:
    values = torch.tensor(rows)
    found = from_bytes(to_bytes(values, "int8"), "int8", DIM)
    # Below 1e-36 a step is itself subnormal.
    assert ((found - values).abs() <= allowed_error(values, "int8") + 1e-38).all()


def test_int8_holds_tokens_of_zeros() -> None:
    assert not from_bytes(to_bytes(torch.zeros(2, DIM), "int8"), "int8", DIM).any()


@every_dtype
def test_a_token_takes_the_bytes_that_it_says(storage: str) -> None:
    assert to_bytes(make_embeddings([3], storage=storage).values, storage).shape == (3, token_bytes(storage, DIM))


def test_a_storage_dtype_that_is_none_is_refused() -> None:
    for storage in STORAGE_DTYPES:
        check_storage_dtype(storage)
    with pytest.raises(ConfigError, match=r"^storage_dtype: expected one of float16, .*, got 'float64'"):
        check_storage_dtype("float64")


def test_a_new_codec_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    doubled = Codec(
        working="float32",
        token_bytes=lambda dim: 8 * dim,
        encode=lambda values: values.double().view(torch.uint8),
        decode=lambda data, dim: data.view(torch.float64).float().view(-1, dim),
    )
    monkeypatch.setattr("t5enc.storage.codecs.CODECS", {**CODECS, "float64": doubled})
    check_storage_dtype("float64")
    table = make_table(["a", "b"], make_embeddings([2, 1], storage="float64"), storage="float64")
    column = table[f"{PREFIX}bytes"]
    assert len(column[0].as_py()) == 2 * token_bytes("float64", DIM)
    assert_reads(read_column(column, "float64", DIM), make_embeddings([2, 1]), "float64")
