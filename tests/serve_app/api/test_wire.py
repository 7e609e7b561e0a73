"""Every format holds the same numbers, and a client gets the one that it prefers."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from serve_app.api.media_types import pick_media_type
from serve_app.api.wire import (
    ARROW,
    JSON,
    NPY,
    NPZ,
    SAFETENSORS,
    WRITERS,
    TokenEmbeddings,
    choose_dtype,
    join_texts,
    to_raw,
    write_arrow,
    write_json,
    write_npy,
    write_npz,
    write_safetensors,
)
from serve_app.served.refusals import RefusedError
from t5enc.errors import PrecisionError
from t5enc.storage import column_format, read_column

LENGTHS = [3, 1, 5]
TEXTS = [torch.arange(4 * length, dtype=torch.float32).view(length, 4) + 0.1 * length for length in LENGTHS]
TRUNCATED = [False, True, False]
DTYPES = ["float32", "float16", "bfloat16"]


def make(dtype: str = "float32") -> TokenEmbeddings:
    """Three texts whose numbers tell them apart."""
    return TokenEmbeddings(join_texts(TEXTS, dtype, 4), TRUNCATED, "tiny", "abc")


@pytest.mark.parametrize("dtype", DTYPES)
def test_safetensors_hold_values_offsets_lengths_and_flags(dtype: str) -> None:
    tensors = load(write_safetensors(make(dtype)))
    assert torch.equal(tensors["values"], torch.cat(TEXTS).to(getattr(torch, dtype)))
    assert tensors["offsets"].tolist() == [0, 3, 4, 9]
    assert tensors["lengths"].tolist() == LENGTHS
    assert tensors["truncated"].tolist() == TRUNCATED


def test_safetensors_name_the_model_and_the_dtype(tmp_path: Path) -> None:
    path = tmp_path / "answer.safetensors"
    path.write_bytes(write_safetensors(make("float16")))
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"model": "tiny", "fingerprint": "abc", "dtype": "float16"}


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_arrow_stream_is_read_as_the_pipelines_columns_are(dtype: str) -> None:
    table = pa.ipc.open_stream(write_arrow(make(dtype))).read_all()
    facts = column_format(table.schema)
    assert (facts["storage_dtype"], facts["dim"], facts["model"], facts["fingerprint"]) == (dtype, 4, "tiny", "abc")
    embeddings = read_column(table["text_embedding_bytes"], dtype, 4)
    assert torch.equal(embeddings.values, torch.cat(TEXTS).to(getattr(torch, dtype)))
    assert table["text_embedding_shape"].to_pylist() == [[length, 4] for length in LENGTHS]
    assert table["text_embedding_num_tokens"].to_pylist() == LENGTHS
    assert table["text_embedding_truncated"].to_pylist() == TRUNCATED
    assert set(table["text_embedding_dtype"].to_pylist()) == {dtype}


def test_npz_and_npy_load_without_pickle() -> None:
    with np.load(io.BytesIO(write_npz(make())), allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["values"], torch.cat(TEXTS).numpy())
        assert arrays["offsets"].tolist() == [0, 3, 4, 9]
        assert arrays["truncated"].tolist() == TRUNCATED
        assert str(arrays["model"]) == "tiny"
    single = TokenEmbeddings(join_texts(TEXTS[:1], "float32", 4), [False], "tiny", "abc")
    np.testing.assert_array_equal(np.load(io.BytesIO(write_npy(single)), allow_pickle=False), TEXTS[0].numpy())


def test_npy_refuses_several_texts_and_names_the_format_that_holds_them() -> None:
    with pytest.raises(RefusedError, match=r"holds one text, got 3; ask for application/x-npz") as caught:
        write_npy(make())
    assert caught.value.status == 406


@pytest.mark.parametrize("dtype", DTYPES)
def test_json_numbers_are_the_very_numbers(dtype: str) -> None:
    content = json.loads(write_json(make(dtype)))
    for found, text in zip(content["embeddings"], TEXTS, strict=True):
        assert torch.equal(torch.tensor(found), text.to(getattr(torch, dtype)).float())
    assert (content["lengths"], content["truncated"], content["dtype"]) == (LENGTHS, TRUNCATED, dtype)


def test_a_text_out_of_the_range_of_the_answers_dtype_is_named() -> None:
    texts = [TEXTS[0], torch.full((2, 4), 1e5)]
    with pytest.raises(PrecisionError) as caught:
        join_texts(texts, "float16", 4)
    assert caught.value.failed == {1: "embedding is out of the range of float16"}


class NotedDtypes(TorchDispatchMode):
    """Notes the dtype of all tensors that are made meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.found |= {tensor.dtype for tensor in tree_leaves(made) if isinstance(tensor, Tensor)}
        return made


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("computed", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_rows_are_joined_in_the_dtype_of_the_answer_alone(computed: str, dtype: str, count: int) -> None:
    wanted, texts = getattr(torch, dtype), [text.to(getattr(torch, computed)) for text in TEXTS[:count]]
    with NotedDtypes() as noted:
        found = join_texts(texts, dtype, 4)
    assert torch.equal(found.values, torch.cat([torch.empty(0, 4), *texts]).to(wanted))
    assert found.values.dtype == wanted
    assert {kind for kind in noted.found if kind.is_floating_point} == {wanted}


def test_numpy_formats_get_bfloat16_models_in_float32_and_refuse_it_by_name() -> None:
    assert choose_dtype(None, "bfloat16", NPZ) == "float32"
    assert choose_dtype(None, "bfloat16", SAFETENSORS) == "bfloat16"
    assert choose_dtype("float16", "bfloat16", NPY) == "float16"
    with pytest.raises(RefusedError, match="expected float32 or float16 for application/x-npy, got bfloat16"):
        choose_dtype("bfloat16", "float32", NPY)


@pytest.mark.parametrize(("endianness", "order"), [("little", "<"), ("big", ">"), ("native", "=")])
def test_raw_numbers_lie_in_the_byte_order_asked_for(endianness: str, order: str) -> None:
    for dtype, kind in (("float32", "f4"), ("float16", "f2")):
        found = np.frombuffer(to_raw(TEXTS[2], dtype, endianness), f"{order}{kind}").reshape(5, 4)
        np.testing.assert_array_equal(found, TEXTS[2].numpy().astype(kind))


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ([], SAFETENSORS),
        (["*/*"], SAFETENSORS),
        (["application/*"], SAFETENSORS),
        ([JSON], JSON),
        ([f"{JSON};q=0.5, {ARROW}"], ARROW),
        ([f"{JSON};q=0.5", f"{NPZ};q=0.9"], NPZ),
        (["text/html, */*;q=0.1"], SAFETENSORS),
        ([f"{SAFETENSORS};q=0, */*;q=0.5"], ARROW),
        ([JSON.upper()], JSON),
        ([f"{JSON};q=none, {NPY};q=0.2"], NPY),
    ],
)
def test_the_preferred_format_is_picked(accept: list[str], expected: str) -> None:
    assert pick_media_type(accept, WRITERS) == expected


@pytest.mark.parametrize("accept", [["text/html"], [f"{JSON};q=0"], ["image/*, text/plain"]])
def test_a_client_that_accepts_no_format_learns_which_there_are(accept: list[str]) -> None:
    with pytest.raises(RefusedError, match=r"expected one of application/vnd\.safetensors") as caught:
        pick_media_type(accept, WRITERS)
    assert caught.value.status == 406


def pick(accept: list[str]) -> str:
    """The format picked, or the status of the refusal."""
    try:
        return pick_media_type(accept, WRITERS)
    except RefusedError as error:
        return str(error.status)


@given(st.lists(st.text(max_size=40), max_size=3))
def test_any_accept_header_picks_a_format_or_is_refused(accept: list[str]) -> None:
    assert pick(accept) in {*WRITERS, "406"}
