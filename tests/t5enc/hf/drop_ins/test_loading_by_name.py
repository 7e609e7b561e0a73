"""Weights under transformers' names, one by one or in a larger state, are taken or refused, never lost."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from t5enc.errors import ConfigError
from tests.t5enc.conftest import Make
from tests.t5enc.hf.drop_ins.pairs import Pair, draw_batch, drop_in, encode, load, relative
from tests.t5enc.reference import ROUNDING

QUERY = "encoder.block.1.layer.0.SelfAttention.q.weight"
KEY = "encoder.block.1.layer.0.SelfAttention.k.weight"


class Whole(nn.Module):
    """A model of which the encoder is a part."""

    def __init__(self, text_encoder: nn.Module) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.head = nn.Linear(4, 2)


def untrained(pair: Pair) -> Any:
    return type(pair.ours)(copy.deepcopy(pair.ours.config)).eval()


def empty(pair: Pair) -> Any:
    accelerate = pytest.importorskip("accelerate", reason="empty models are accelerate's")
    with accelerate.init_empty_weights():
        return type(pair.ours)(copy.deepcopy(pair.ours.config))


def named(pair: Pair) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in pair.theirs.state_dict().items()}


@pytest.mark.parametrize("strict", [True, False])
def test_a_parents_state_of_either_layout_reaches_the_encoder(strict: bool, pair: Pair) -> None:
    expected = encode(pair.ours, *draw_batch())
    for source in (pair.theirs, pair.ours):
        whole = Whole(untrained(pair))
        report = whole.load_state_dict(Whole(source).state_dict(), strict=strict)
        assert not report.missing_keys
        assert not report.unexpected_keys
        assert torch.equal(encode(whole.text_encoder, *draw_batch()), expected)


def test_the_stack_and_a_block_take_transformers_names_too(pair: Pair) -> None:
    model, expected = untrained(pair), encode(pair.ours, *draw_batch())
    model.encoder.load_state_dict(pair.theirs.encoder.state_dict())
    assert torch.equal(encode(model, *draw_batch()), expected)
    bias = "layer.0.SelfAttention.relative_attention_bias.weight"
    state = {name: tensor for name, tensor in pair.theirs.encoder.block[0].state_dict().items() if name != bias}
    model.encoder.block[1].load_state_dict(state)
    ours = pair.ours.encoder.block[0].state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in model.encoder.block[1].state_dict().items())


def test_a_part_of_a_fused_weight_is_loaded_alone_and_the_rest_counts_as_missing(pair: Pair) -> None:
    model = untrained(pair)
    before = model.encoder.block[1].attention.qkv.weight.detach().clone()
    report = model.load_state_dict({QUERY: named(pair)[QUERY]}, strict=False)
    rows = len(before) // 3
    after = model.encoder.block[1].attention.qkv.weight
    assert torch.equal(after[:rows], named(pair)[QUERY])
    assert torch.equal(after[rows:], before[rows:])
    assert KEY in report.missing_keys
    assert not report.unexpected_keys


def test_a_part_of_the_wrong_shape_stops_loading_that_is_not_strict(pair: Pair) -> None:
    state = named(pair) | {KEY: torch.zeros(3, 5)}
    with pytest.raises(
        RuntimeError, match=r"text_encoder\.encoder\.block\.1\.\S+\.k\.weight: expected \(48, 64\), got"
    ):
        Whole(untrained(pair)).load_state_dict({f"text_encoder.{name}": state[name] for name in state}, strict=False)


def test_a_layer_that_was_replaced_stops_loading_that_is_not_strict(pair: Pair) -> None:
    model = untrained(pair).replace_linears(nn.Sequential)
    with pytest.raises(RuntimeError, match=r"q\.weight: expected the model's own layer"):
        model.load_state_dict(named(pair), strict=False)


def test_a_state_of_fused_norms_is_unfused_for_a_model_without(pair: Pair) -> None:
    expected = encode(pair.ours, *draw_batch())
    state = copy.deepcopy(pair.ours).fuse_norms().state_dict()
    for model in (untrained(pair), empty(pair)):
        model.load_state_dict(state, assign=True)
        assert relative(encode(model.eval(), *draw_batch()), expected) < ROUNDING
    with pytest.raises(ConfigError, match="expected a state of fused norms"):
        copy.deepcopy(pair.ours).fuse_norms().load_state_dict(named(pair))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_set_by_transformers_names_fill_an_empty_model(dtype: torch.dtype, pair: Pair) -> None:
    model = empty(pair)
    from accelerate.utils import set_module_tensor_to_device

    for name, tensor in named(pair).items():
        assert name in model.state_dict()
        set_module_tensor_to_device(model, name, "cpu", value=tensor, dtype=dtype)
    expected = copy.deepcopy(pair.ours).to(dtype)
    assert torch.equal(encode(model.eval(), *draw_batch()), encode(expected, *draw_batch()))
    assert set(model.state_dict()) == set(expected.state_dict())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_accelerate_loads_and_dispatches_a_checkpoint(pair: Pair) -> None:
    model = empty(pair)
    from accelerate import load_checkpoint_and_dispatch

    file = str(pair.folder / "model.safetensors")
    model.tie_weights()
    loaded = load_checkpoint_and_dispatch(model.eval(), file, device_map={"": "cpu"})
    assert torch.equal(encode(loaded, *draw_batch()), encode(pair.ours, *draw_batch()))


@pytest.mark.parametrize("source", ["theirs", "ours"])
def test_an_empty_model_is_assigned_a_state_of_either_layout(source: str, pair: Pair) -> None:
    model = empty(pair)
    report = model.load_state_dict(getattr(pair, source).state_dict(), strict=False, assign=True)
    assert not report.missing_keys
    assert not report.unexpected_keys
    assert torch.equal(encode(model.eval(), *draw_batch()), encode(pair.ours, *draw_batch()))


def test_a_weight_that_no_loader_has_set_is_named_when_it_is_needed(pair: Pair) -> None:
    model, state = empty(pair), named(pair)
    del state[KEY]
    model.load_state_dict(state, strict=False, assign=True)
    for use in (
        lambda: encode(model.eval(), *draw_batch()),
        model.fuse_norms,
        lambda: model.replace_linears(nn.Sequential),
    ):
        with pytest.raises(ConfigError, match=rf"^{KEY}: expected a weight, got none"):
            use()


def test_a_model_left_on_meta_says_so(make: Make) -> None:
    config = load("t5_v1_1", make().folder).config
    with torch.device("meta"):
        model = drop_in("t5_v1_1")(config)
    with pytest.raises(ConfigError, match=r"^encoder\.embed_tokens\.weight: expected a weight, got none"):
        encode(model.eval(), *draw_batch())
    assert encode(model, draw_batch()[0].to("meta")).is_meta


def test_an_empty_model_dispatched_over_several_places_is_refused(pair: Pair) -> None:
    model = empty(pair)
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    add_hook_to_module(model.encoder.block[1], AlignDevicesHook("cpu"))
    model.load_state_dict(named(pair), assign=True)
    with pytest.raises(ConfigError, match=r"^encoder\.block\.1: expected weights in one place, got accelerate's hooks"):
        encode(model.eval(), *draw_batch())
