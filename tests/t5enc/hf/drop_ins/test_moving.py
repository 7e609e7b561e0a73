"""Drop-ins are cast, moved, copied, and given other embeddings and layers as any model is."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from t5enc.errors import ConfigError
from tests.t5enc.conftest import FLEX, Make
from tests.t5enc.hf.drop_ins.pairs import Pair, draw_batch, encode, load, relative
from tests.t5enc.reference import ROUNDING


def test_casts_and_moves_are_live(pair: Pair) -> None:
    ids, mask = draw_batch()
    expected = encode(pair.theirs, ids, mask)
    model = copy.deepcopy(pair.ours)
    for cast, tolerance in ((model.half, 2e-3), (model.bfloat16, 2e-2), (model.float, 2e-2), (model.double, 2e-2)):
        model = cast()
        found = encode(model, ids, mask)
        assert found.dtype == model.dtype
        assert relative(found, expected) < tolerance
    assert pair.ours.to(torch.float16).dtype == torch.float16
    assert pair.ours.to("meta").device.type == "meta"


def test_float64_computes_in_float64(pair: Pair) -> None:
    ids, mask = draw_batch()
    found, expected = encode(pair.ours.double(), ids, mask), encode(pair.theirs.double(), ids, mask)
    assert relative(found, expected) < 1e-6  # transformers' norms are float32 even there


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_no_worse_than_transformers(dtype: torch.dtype, pair: Pair) -> None:
    ids, mask = draw_batch(4)
    mask[2] = 0
    expected = encode(pair.theirs, ids, mask)
    with torch.autocast("cpu", dtype):
        found = [encode(model, ids, mask) for model in (pair.ours, pair.theirs)]
    assert found[0].isfinite().all()
    rows = [0, 1, 3]  # in float16 transformers gives a row of pads other numbers
    ours, theirs = (relative(hidden[rows], expected[rows]) for hidden in found)
    assert ours < 1.2 * theirs
    assert relative(found[0], expected) < 2 * ours


@pytest.mark.parametrize("implementation", ["sdpa", FLEX])
@pytest.mark.parametrize("compiles", [False, pytest.param(True, marks=pytest.mark.long)])
def test_it_survives_pickle_deepcopy_and_torch_save(
    compiles: bool, implementation: str, make: Make, compiler: None
) -> None:
    model = load("umt5", make("umt5").folder, attn_implementation=implementation)
    model = model.compile() if compiles else model
    ids, mask = draw_batch()
    expected = encode(model, ids, mask)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(buffer, weights_only=False)]
    for copied in copies:
        assert relative(encode(copied, ids, mask), expected) < ROUNDING


def test_embeddings_are_replaced_and_resized(pair: Pair, tmp_path: Path) -> None:
    pair.ours.resize_token_embeddings(310, mean_resizing=False)
    assert pair.ours.config.vocab_size == 310
    assert pair.ours.encoder.embed_tokens is pair.ours.get_input_embeddings()
    encode(pair.ours, torch.tensor([[309, 1]]))
    pair.ours.save_pretrained(tmp_path)
    assert type(pair.theirs).from_pretrained(tmp_path).shared.weight.shape == (310, 64)
    other = torch.nn.Embedding(20, 64)
    pair.ours.set_input_embeddings(other)
    assert pair.ours.encoder.embed_tokens is pair.ours.shared is other


def test_linear_layers_can_be_replaced(pair: Pair) -> None:
    class Halved(torch.nn.Module):
        """A layer that keeps its weight in 16 bit."""

        def __init__(self, linear: torch.nn.Linear) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(linear.weight.detach().bfloat16(), requires_grad=False)

        def forward(self, inputs: Tensor) -> Tensor:
            return torch.nn.functional.linear(inputs, self.weight.to(inputs.dtype))

    ids, mask = draw_batch()
    expected = encode(pair.theirs, ids, mask)
    with pytest.raises(ConfigError, match=r"^attention.qkv: expected a layer without a bias, got Linear"):
        copy.deepcopy(pair.ours).replace_linears(lambda layer: torch.nn.Linear(layer.in_features, layer.out_features))
    pair.ours.replace_linears(Halved)
    with pytest.raises(
        ConfigError, match=r"^attention.qkv: expected the model's own layer to fuse a norm into, got Halved"
    ):
        pair.ours.fuse_norms()
    assert sum(isinstance(module, Halved) for module in pair.ours.modules()) == 4 * 3
    assert ROUNDING < relative(encode(pair.ours, ids, mask), expected) < 1e-2
    assert relative(encode(pair.ours.half(), ids, mask), expected) < 1e-2
