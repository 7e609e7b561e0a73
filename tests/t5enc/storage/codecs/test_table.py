"""Numbers to bytes and back: exact where the codec says so, bounded where it does not, and a token of its size."""

from __future__ import annotations

import math

import numpy as np
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
    count_tokens,
    decode_into,
    find_codec,
    from_bytes,
    name_codec,
    read_column,
    to_bytes,
    token_bytes,
    usual_token_bytes,
    working_dtype,
)
from t5enc.storage.codecs import Codec
from tests.t5enc.storage.exactness import allowed_error, assert_reads, every_dtype, exact_dtype
from tests.t5enc.written import DIM, make_embeddings, make_table


@exact_dtype
def test_values_beyond_a_dtype_are_rounded_as_torch_rounds_them(storage: str) -> None:
    values = torch.tensor([[1 / 3, -2.7182817, 1e-3, 0.0]]).to(working_dtype(storage))
    assert torch.equal(from_bytes(to_bytes(values, storage), storage, DIM), values)


@every_dtype
def test_a_token_takes_the_bytes_that_it_says(storage: str) -> None:
    data = to_bytes(make_embeddings([3], storage=storage).values, storage)
    size = token_bytes(storage, DIM)
    assert data.shape == (3, size) if size is not None else data.ndim == 1
    assert count_tokens(data, storage, DIM) == 3


@every_dtype
@given(tokens=st.integers(0, 5), dim=st.integers(1, 100), before=st.integers(0, 2), seed=st.integers(0, 99))
def test_a_part_of_a_batch_is_filled_and_nothing_beside_it(
    storage: str, tokens: int, dim: int, before: int, seed: int
) -> None:
    values = torch.randn(tokens, dim, generator=torch.Generator().manual_seed(seed)).to(working_dtype(storage))
    data = to_bytes(values, storage)
    batch = torch.full((2, before + tokens + 1, dim), 7.0, dtype=values.dtype)
    decode_into(data, storage, batch[1, before : before + tokens])
    assert torch.equal(batch[1, before : before + tokens], from_bytes(data, storage, dim))
    assert (batch == 7.0).sum() >= batch.numel() - tokens * dim
    assert ((from_bytes(data, storage, dim).float() - values.float()).abs() <= allowed_error(values, storage)).all()


@every_dtype
def test_bytes_that_may_not_be_written_are_read(storage: str) -> None:
    values = make_embeddings([3], storage=storage).values
    data = np.frombuffer(to_bytes(values, storage).tobytes(), np.uint8)
    assert torch.equal(from_bytes(data, storage, DIM), from_bytes(to_bytes(values, storage), storage, DIM))


def test_a_storage_dtype_that_is_none_is_refused() -> None:
    for storage in (*STORAGE_DTYPES, "int8"):
        check_storage_dtype(storage)
    with pytest.raises(ConfigError, match=r"^storage_dtype: expected one of float16, .*, got 'float64'"):
        check_storage_dtype("float64")


def test_int8_means_groups_and_all_else_itself() -> None:
    assert name_codec("int8") == "int8g32"
    assert [name_codec(name) for name in STORAGE_DTYPES] == list(STORAGE_DTYPES)
    with pytest.raises(ConfigError, match="got 'int4'"):
        name_codec("int4")


def test_sizes_are_known_or_guessed() -> None:
    sizes = {name: usual_token_bytes(name, 4096) for name in CODECS}
    assert sizes == {
        **{"float16": 8192, "bfloat16": 8192, "float32": 16384, "int8": 4100, "int8g32": 4352, "fp8": 4096},
        **{"bf16z": 5632, "fp16z": 7168},
    }
    assert all(sizes[name] == math.ceil(codec.bits * 512) or name == "int8" for name, codec in CODECS.items())
    assert [name for name in CODECS if token_bytes(name, 4096) is None] == ["bf16z", "fp16z"]
    assert [name for name in CODECS if find_codec(name).is_plain] == ["float16", "bfloat16", "float32"]


def test_a_new_codec_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    doubled = Codec(
        working="float32",
        bits=64,
        token_bytes=lambda dim: 8 * dim,
        encode=lambda values: values.double().view(torch.uint8),
        decode_into=lambda data, out: out.copy_(data.flatten().view(torch.float64).view(out.shape)),
        count_tokens=lambda data, dim: data.numel() // (8 * dim),
        is_lossless=True,
    )
    monkeypatch.setattr("t5enc.storage.codecs.table.CODECS", {**CODECS, "float64": doubled})
    check_storage_dtype("float64")
    table = make_table(["a", "b"], make_embeddings([2, 1], storage="float64"), storage="float64")
    column = table[f"{PREFIX}bytes"]
    assert len(column[0].as_py()) == 2 * 8 * DIM
    assert_reads(read_column(column, "float64", DIM), make_embeddings([2, 1]), "float64")
