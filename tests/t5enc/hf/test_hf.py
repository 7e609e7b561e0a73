"""The drop-ins behave as transformers' own classes do, from loading to training to saving."""

from __future__ import annotations

import copy
import io
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

import t5enc.hf
from t5enc.checkpoint.weights import fuse_tensors
from t5enc.errors import CheckpointError, ConfigError, InputError
from t5enc.hf import AutoT5EncoderModel, FusedEncoder
from tests.families import FAMILIES
from tests.t5enc.conftest import FLEX, Make
from tests.t5enc.reference import ROUNDING

Model = Any


class Pair(NamedTuple):
    """A checkpoint's folder, our model of it, and transformers'."""

    folder: Path
    ours: FusedEncoder
    theirs: Model


def drop_in(family: str) -> type[FusedEncoder]:
    found: type[FusedEncoder] = getattr(t5enc.hf, FAMILIES[family]["class"])
    return found


def load(family: str, folder: Path, **options: Any) -> Any:
    return drop_in(family).from_pretrained(folder, **options).eval()


@pytest.fixture(params=["t5_v1_0", "t5_v1_1", "mt5", "umt5"])
def pair(request: pytest.FixtureRequest, make: Make) -> Pair:
    folder, _ = make(request.param)
    base = getattr(transformers, FAMILIES[request.param]["class"])
    return Pair(folder, load(request.param, folder), base.from_pretrained(folder).eval())


def draw_batch(rows: int = 3, length: int = 17, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(B, S) ids, and a mask with pads right and left, and a hole."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 300, (rows, length), generator=generator)
    mask = torch.ones(rows, length, dtype=torch.int64)
    mask[-1, length // 2 :] = 0
    if rows > 2:
        mask[0, :3] = 0
        mask[1, 5:7] = 0
    return ids, mask


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.detach().double() - expected.detach().double()).norm() / expected.detach().double().norm())


@torch.no_grad()
def encode(model: Model, ids: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
    hidden: Tensor = model(input_ids=ids, attention_mask=mask, **options).last_hidden_state
    return hidden


# What it is


def test_it_is_an_instance_of_the_class_whose_place_it_takes(pair: Pair) -> None:
    assert isinstance(pair.ours, type(pair.theirs))
    assert pair.ours.num_parameters() == pair.theirs.num_parameters()
    assert pair.ours.config.to_dict() == pair.theirs.config.to_dict() | {
        "architectures": pair.ours.config.architectures
    }
    assert pair.ours.main_input_name == "input_ids"
    assert pair.ours.name_or_path == str(pair.folder)
    assert (pair.ours.dtype, pair.ours.device) == (torch.float32, torch.device("cpu"))


def test_importing_a_name_from_the_package_gives_the_class() -> None:
    assert t5enc.T5EncoderModel is t5enc.hf.T5EncoderModel
    assert t5enc.hf.T5EncoderModel.__name__ == "FusedT5EncoderModel"


@pytest.mark.parametrize("family", FAMILIES)
def test_all_positions_equal_transformers(family: str, make: Make) -> None:
    folder, theirs = make(family)
    ids, mask = draw_batch()
    ours = load(family, folder)
    assert relative(encode(ours, ids), encode(theirs, ids)) < ROUNDING
    assert relative(encode(ours, ids, mask), encode(theirs, ids, mask)) < ROUNDING


# Outputs


@pytest.mark.parametrize("wanted", [True, 1, [0, -1], [2, 99]])
def test_hidden_states_are_those_of_transformers(pair: Pair, wanted: Any) -> None:
    ids, mask = draw_batch()
    found, expected = (
        model(ids, attention_mask=mask, output_hidden_states=wanted).hidden_states for model in (pair.ours, pair.theirs)
    )
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or relative(ours, theirs) < ROUNDING


def test_attention_weights_are_those_of_transformers(pair: Pair) -> None:
    ids, mask = draw_batch()
    pair.theirs.set_attn_implementation("eager")
    found, expected = (
        model(ids, attention_mask=mask, output_attentions=True).attentions for model in (pair.ours, pair.theirs)
    )
    assert len(found) == len(expected) == 3
    assert max(relative(ours, theirs) for ours, theirs in zip(found, expected, strict=True)) < ROUNDING


def test_outputs_are_indexed_and_sliced_and_unpacked(pair: Pair) -> None:
    ids, _ = draw_batch()
    output = pair.ours(ids, output_hidden_states=True)
    assert isinstance(output, transformers.modeling_outputs.BaseModelOutput)
    assert output[0] is output.last_hidden_state is output["last_hidden_state"]
    assert len(output[:2]) == len(output.to_tuple()) == 2
    assert isinstance(pair.ours(ids, return_dict=False), tuple)
    assert torch.equal(pair.ours(ids, return_dict=False)[0], output[0])


def test_embeddings_can_be_given_instead_of_ids(pair: Pair) -> None:
    ids, mask = draw_batch()
    embeds = pair.ours.get_input_embeddings()(ids)
    assert torch.equal(pair.ours(inputs_embeds=embeds, attention_mask=mask)[0], pair.ours(ids, mask)[0])
    for wrong in ({}, {"input_ids": ids, "inputs_embeds": embeds}):
        with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
            pair.ours(**wrong)


def test_states_not_asked_for_are_not_there(pair: Pair) -> None:
    for model in (pair.ours, pair.theirs):
        assert all(
            model(draw_batch()[0], output_hidden_states=none).hidden_states is None for none in (False, None, 0, [])
        )


def test_float16_states_stay_in_its_range(make: Make) -> None:
    model = load("t5_v1_1", make().folder).half()
    with torch.no_grad():
        model.encoder.block[1].feed_forward.down.weight *= 60000
    output = model(draw_batch()[0], output_hidden_states=True)
    assert output.hidden_states[2].abs().max() == torch.finfo(torch.float16).max
    assert all(state.isfinite().all() for state in output.hidden_states)


@pytest.mark.parametrize("shape", [(3, 16), (3, 17, 16), (3, 1, 17, 16), (17,), (2, 1, 17, 17), (3, 2, 17, 17)])
def test_a_mask_of_another_shape_is_refused_with_the_shapes(shape: tuple[int, ...], make: Make) -> None:
    with pytest.raises(InputError, match=r"^attention_mask: expected .*, got \("):
        encode(load("t5_v1_1", make().folder), draw_batch()[0], torch.ones(shape))


def test_other_arguments_that_cannot_be_honoured_are_refused(make: Make) -> None:
    model, (ids, _) = load("t5_v1_1", make().folder), draw_batch()
    with pytest.raises(InputError, match=r"^attention_mask: expected a tensor, got str"):
        model(ids, attention_mask="none")
    with pytest.raises(InputError, match=r"^use_cache: expected none"):
        model(ids, use_cache=True)
    model.config._attn_implementation = "mine"
    with pytest.raises(
        ConfigError, match=r"^attn_implementation: expected one of sdpa, flex_attention, eager, got 'mine'"
    ):
        model(ids)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_mask_of_the_lowest_float32_is_a_mask_in_16_bit(dtype: torch.dtype, make: Make) -> None:
    model, (ids, mask) = load("umt5", make("umt5").folder, dtype=dtype), draw_batch()
    added = torch.zeros(3, 1, 1, 17).masked_fill(mask[:, None, None] == 0, torch.finfo(torch.float32).min)
    assert torch.equal(encode(model, ids, added), encode(model, ids, mask))


def test_a_traced_model_keeps_its_mask(make: Make) -> None:
    model, (ids, mask) = load("t5_v1_1", make().folder), draw_batch()
    expected = encode(model, ids, mask)
    model.config.return_dict = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of every size that it takes for fixed
        traced = torch.jit.trace(model, (ids, torch.ones_like(mask)), check_trace=False)
    assert relative(traced(ids, mask)[0], expected) < ROUNDING


def test_a_four_dimensional_mask_of_numbers_is_added(pair: Pair) -> None:
    ids, _ = draw_batch()
    bias = torch.randn(3, 1, 17, 17, generator=torch.Generator().manual_seed(1)) * 3
    assert relative(encode(pair.ours, ids, bias), encode(pair.theirs, ids, bias)) < ROUNDING
    per_head = bias.expand(3, 3, 17, 17) * torch.tensor([1.0, 0, -1]).view(1, 3, 1, 1)
    assert relative(encode(pair.ours, ids, per_head), encode(pair.theirs, ids, per_head)) < ROUNDING


# Moving and copying


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
def test_it_survives_pickle_deepcopy_and_torch_save(implementation: str, make: Make, compiler: None) -> None:
    model = load("umt5", make("umt5").folder, attn_implementation=implementation).compile()
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


# Training


def test_gradients_equal_transformers(pair: Pair) -> None:
    ids, mask = draw_batch()
    for model in (pair.ours, pair.theirs):
        model(ids, attention_mask=mask)[0].square().sum().backward()
    expected = fuse_tensors({name: p.grad for name, p in pair.theirs.named_parameters()}, pair.ours.list_parts())
    for name, parameter in pair.ours.named_parameters():
        assert parameter.grad is not None, name
        assert relative(parameter.grad, expected[name]) < ROUNDING, name


def test_dropout_draws_what_transformers_draws(pair: Pair) -> None:
    """The same places in the same order, so one seed gives both models the same numbers."""
    ids, mask = draw_batch()
    found = []
    for model in (pair.ours.train(), pair.theirs.train()):
        torch.manual_seed(3)
        found.append(model(ids, attention_mask=mask)[0])
    assert relative(*found) < ROUNDING
    assert relative(found[0], encode(pair.theirs.eval(), ids, mask)) > 0.05


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_gradients_equal_plain_ones(reentrant: bool, pair: Pair) -> None:
    ids, mask = draw_batch()
    gradients = []
    for is_checkpointed in (False, True):
        model = copy.deepcopy(pair.ours).train()
        if is_checkpointed:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        torch.manual_seed(5)
        model(ids, attention_mask=mask)[0].square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert max(relative(a, b) for a, b in zip(*gradients, strict=True)) < 1e-6


def test_adapters_get_gradients_under_reentrant_checkpoints(pair: Pair) -> None:
    """The base is frozen, so the embeddings have to ask for gradients."""
    ids, mask = draw_batch()
    for model in (pair.ours.train().requires_grad_(False), pair.theirs.train().requires_grad_(False)):
        model.activation_checkpointing_enable({"use_reentrant": True})
        wanted = [parameter for name, parameter in model.named_parameters() if "block.2" in name]
        for parameter in wanted:
            parameter.requires_grad_(True)
        model(ids, attention_mask=mask)[0].square().sum().backward()
        assert all(parameter.grad is not None for parameter in wanted)
        model.disable_input_require_grads()
        assert not model.encoder.embed_tokens._forward_hooks


def test_conventional_logits_are_scaled(make: Make) -> None:
    folder, theirs = make("t5_v1_1")
    ids, mask = draw_batch()
    config = transformers.AutoConfig.from_pretrained(folder)
    config.scale_logits = True
    scaled = drop_in("t5_v1_1").from_pretrained(folder, config=config).eval()
    plain = copy.deepcopy(theirs)
    with torch.no_grad():
        for block in plain.encoder.block:
            block.layer[0].SelfAttention.q.weight *= 16**-0.5
    assert relative(encode(scaled, ids, mask), encode(plain, ids, mask)) < ROUNDING
    with pytest.raises(ConfigError, match=r"^scale_logits: expected"):
        scaled.to_transformers()


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


# Checkpoints


@pytest.mark.parametrize("family", FAMILIES)
def test_saving_gives_transformers_the_same_bits_in_its_own_layout(family: str, make: Make, tmp_path: Path) -> None:
    folder, theirs = make(family)
    ours = load(family, folder)
    ours.save_pretrained(tmp_path)
    written, expected = load_file(tmp_path / "model.safetensors"), load_file(folder / "model.safetensors")
    assert set(written) == set(expected)
    assert all(torch.equal(written[name], expected[name]) for name in expected)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [FAMILIES[family]["class"]]
    # transformers' own class in this very process is left as it was
    again = type(theirs).from_pretrained(tmp_path)
    again.save_pretrained(tmp_path / "theirs")
    assert set(load_file(tmp_path / "theirs" / "model.safetensors")) == set(expected)
    assert torch.equal(encode(again.eval(), *draw_batch()), encode(theirs, *draw_batch()))
    assert torch.equal(encode(ours.to_transformers(), *draw_batch()), encode(theirs, *draw_batch()))
    assert torch.equal(encode(load(family, tmp_path), *draw_batch()), encode(ours, *draw_batch()))


def test_an_untrained_model_is_saved_as_well(pair: Pair, tmp_path: Path) -> None:
    model = type(pair.ours)(pair.ours.config)
    model.save_pretrained(tmp_path)
    again = type(pair.theirs).from_pretrained(tmp_path)
    expected = model.to_transformers().state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())


def test_shards_variants_and_subfolders_load(pair: Pair, tmp_path: Path) -> None:
    ids, mask = draw_batch()
    expected = encode(pair.theirs, ids, mask)
    pair.ours.save_pretrained(tmp_path / "text_encoder", max_shard_size="100KB", variant="fp32")
    assert len(list((tmp_path / "text_encoder").glob("*.safetensors"))) > 1
    options = {"subfolder": "text_encoder", "variant": "fp32"}
    for model in (type(pair.ours), type(pair.theirs)):
        assert relative(encode(model.from_pretrained(tmp_path, **options).eval(), ids, mask), expected) < ROUNDING


@pytest.mark.parametrize("options", [{"torch_dtype": torch.float16}, {"dtype": "float16"}, {"dtype": torch.float16}])
def test_every_weight_has_the_dtype_asked_for(options: dict[str, Any], pair: Pair) -> None:
    model = type(pair.ours).from_pretrained(pair.folder, **options)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    assert model.config.dtype == torch.float16


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}, {"shared": "cpu", "encoder": "cpu"}])
def test_device_maps_are_honoured(device_map: Any, pair: Pair) -> None:
    pytest.importorskip("accelerate", reason="device maps need accelerate")
    ids, mask = draw_batch()
    model = type(pair.ours).from_pretrained(pair.folder, device_map=device_map).eval()
    assert relative(encode(model, ids, mask), encode(pair.theirs, ids, mask)) < ROUNDING


def test_state_dicts_of_both_layouts_load(pair: Pair) -> None:
    for state in (pair.ours.state_dict(), pair.theirs.state_dict()):
        fresh = type(pair.ours)(pair.ours.config)
        fresh.load_state_dict(state)
        assert all(torch.equal(tensor, pair.ours.state_dict()[name]) for name, tensor in fresh.state_dict().items())
    incomplete = dict(pair.theirs.state_dict())
    del incomplete["encoder.block.1.layer.0.SelfAttention.k.weight"]
    with pytest.raises(RuntimeError, match=r"encoder\.block\.1\.attention\.qkv\.weight"):
        fresh.load_state_dict(incomplete)


@pytest.mark.parametrize("option", ["quantization_config", "load_in_8bit"])
def test_quantized_loading_is_refused_by_name(option: str, make: Make) -> None:
    with pytest.raises(ConfigError, match=rf"^{option}: expected none"):
        load("t5_v1_1", make().folder, **{option: {"bits": 8}})


# Fused norms


def test_fused_norms_compute_the_same_and_are_saved_unfused(pair: Pair, tmp_path: Path) -> None:
    ids, mask = draw_batch()
    expected = encode(pair.theirs, ids, mask)
    model = pair.ours.fuse_norms()
    assert model.has_fused_norms
    assert not [name for name, _ in model.named_parameters() if "attention_norm" in name or "feed_forward_norm" in name]
    assert relative(encode(model, ids, mask), expected) < ROUNDING
    model.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path / "again", state_dict=model.state_dict())
    with pytest.raises(ConfigError, match=r"^load_state_dict: expected a state of fused norms"):
        model.load_state_dict(pair.theirs.state_dict(), strict=False)
    saved = [type(pair.theirs).from_pretrained(folder) for folder in (tmp_path, tmp_path / "again")]
    for plain in (*saved, model.to_transformers()):
        weights = pair.theirs.state_dict()
        assert max(relative(tensor, weights[name]) for name, tensor in plain.state_dict().items()) < 1e-7
    assert model.has_fused_norms
    assert not model.unfuse_norms().has_fused_norms
    assert relative(encode(model, ids, mask), expected) < ROUNDING


def test_a_norm_of_zero_is_not_fused(make: Make) -> None:
    model = load("t5_v1_1", make().folder)
    with torch.no_grad():
        model.encoder.block[1].attention_norm.weight[3] = 0
    with pytest.raises(CheckpointError, match=r"^norm fusion: expected scales other than zero"):
        model.fuse_norms()


# Compilation


@pytest.mark.parametrize("implementation", ["sdpa", FLEX])
def test_batches_of_any_shape_compile_few_graphs(implementation: str, make: Make, compiler: None) -> None:
    folder, theirs = make("t5_v1_1")
    model = load("t5_v1_1", folder, attn_implementation=implementation).compile()
    shapes = [(1, length) for length in range(1, 13)] + [(2, 7), (3, 17), (4, 16), (5, 1), (7, 13), (2, 64), (1, 130)]
    for rows, length in shapes:
        ids, mask = draw_batch(rows, length)
        mask[:, 0] = 1
        assert relative(encode(model, ids, mask), encode(theirs, ids, mask)) < ROUNDING
        assert relative(encode(model, ids), encode(theirs, ids)) < ROUNDING
    # Flex: one for each rung of rows times tokens; SDPA: with and without a mask, one row or token and several
    assert 1 <= model.compiled_graphs <= 8
    before = model.compiled_graphs
    encode(model, *draw_batch(3, 18))
    assert model.compiled_graphs == before


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # Dynamo's own
def test_a_compiled_model_has_gradients(make: Make, compiler: None) -> None:
    plain = load("umt5", make("umt5").folder)
    compiled = copy.deepcopy(plain).compile()
    ids, mask = draw_batch()
    for model in (plain, compiled):
        model(ids, attention_mask=mask)[0].square().sum().backward()
    for name, parameter in compiled.named_parameters():
        assert relative(parameter.grad, plain.get_parameter(name).grad) < ROUNDING, name


def test_compile_returns_the_model_and_takes_options_of_torch(make: Make, compiler: None) -> None:
    model = load("t5_v1_1", make().folder)
    ids, mask = draw_batch()
    expected = encode(model, ids, mask)
    for options in ({"mode": "max-autotune-no-cudagraphs"}, {"options": {"max_fusion_size": 8}}):
        assert model.compile(**options) is model
        assert relative(encode(model, ids, mask), expected) < ROUNDING
        assert relative(encode(copy.deepcopy(model), ids, mask), expected) < ROUNDING
    for wrong in ({"dynamic": False}, {"backend": "eager"}):
        with pytest.raises(ConfigError, match=r"^compile: expected Inductor and shapes as the attention has them, got"):
            model.compile(**wrong)


# Pads that are not computed


@pytest.mark.parametrize("implementation", ["sdpa", FLEX])
@pytest.mark.parametrize("pads", ["zero", "skip"])
def test_pads_can_be_left_out(pads: str, implementation: str, pair: Pair, compiler: None) -> None:
    ids, mask = draw_batch(5, 40)
    mask[1] = torch.arange(40) < 9
    mask[3] = 0
    expected = encode(pair.theirs, ids, mask)
    model = type(pair.ours).from_pretrained(pair.folder, pad_outputs=pads, attn_implementation=implementation).eval()
    found = encode(model, ids, mask)
    lengths = mask.sum(-1)
    assert found.shape == (5, 40 if pads == "zero" else int(lengths.max()), 64)
    for row, real in enumerate(mask.bool()):
        rows = found[row][real] if pads == "zero" else found[row][: lengths[row]]
        assert len(rows) == lengths[row]
        assert not len(rows) or relative(rows, expected[row][real]) < ROUNDING
    assert int(found.abs().sum(-1).count_nonzero()) == int(lengths.sum())


def test_pads_left_out_have_gradients_and_states_and_an_empty_batch(make: Make) -> None:
    folder, theirs = make("t5_v1_1")
    model = load("t5_v1_1", folder, pad_outputs="zero")
    ids, mask = draw_batch(2, 12)
    model(ids, attention_mask=mask)[0].square().sum().backward()
    assert model.encoder.block[0].attention.qkv.weight.grad is not None
    for pads in ("zero", "skip"):
        model.encoder.pad_outputs = pads
        states = model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        assert {state.shape for state in states} == {states[-1].shape}
        assert len(states) == 4
        assert not states[0][1, 6:].any()
        for dtype in (torch.float32, torch.bfloat16):
            assert not encode(copy.deepcopy(model).to(dtype), ids, torch.zeros_like(mask)).any()
    assert relative(encode(model, ids), encode(theirs, ids)) < ROUNDING


@pytest.mark.parametrize("mask", [torch.tensor([[1, 1, 0, 1, 1]]), torch.ones(1, 5, 5).tril()])
def test_pads_that_cannot_be_left_out_are_refused(mask: Tensor, make: Make) -> None:
    model = load("t5_v1_1", make().folder, pad_outputs="skip")
    with pytest.raises(InputError, match=r"^pad_outputs zero and skip: expected"):
        encode(model, torch.ones(1, 5, dtype=torch.int64), mask)
    with pytest.raises(ConfigError, match=r"^pad_outputs: expected same, zero or skip, got 'none'"):
        load("t5_v1_1", make().folder, pad_outputs="none")


# The class in the place of nai-t5-wrapper's


@pytest.mark.parametrize("family", FAMILIES)
def test_auto_finds_the_family(family: str, make: Make) -> None:
    folder, theirs = make(family)
    model = AutoT5EncoderModel.from_pretrained(folder, max_seq_len=64)
    assert isinstance(model, drop_in(family))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert (model.device.type, model.training) == (device, False)
    ids, mask = draw_batch()
    assert relative(encode(model.float().cpu(), ids, mask), encode(theirs, ids, mask)) < ROUNDING
    with pytest.raises(InputError, match=r"^expected at most max_seq_len = 64 tokens, got 65"):
        encode(model, torch.ones(1, 65, dtype=torch.int64))


def test_auto_refuses_other_models(tmp_path: Path) -> None:
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"^model_type: expected one of t5, mt5, umt5, got 'bert'"):
        AutoT5EncoderModel.from_pretrained(tmp_path)


def test_auto_takes_the_options_of_its_predecessor(make: Make, compiler: None) -> None:
    folder, theirs = make("t5_v1_1")
    ids, mask = draw_batch()
    load_auto: Callable[..., Any] = AutoT5EncoderModel.from_pretrained
    for options in ({"dtype": torch.float16}, {"use_flex_attention": True}, {"device_map": "auto"}):
        model = load_auto(folder, **options).compile()
        assert relative(encode(model, ids, mask), encode(theirs, ids, mask)) < 2e-3
    assert load_auto(folder, use_flex_attention=True).config._attn_implementation == "flex_attention"
    assert load_auto(folder, device_map="cpu").config._attn_implementation == "sdpa"
    with pytest.raises(ConfigError, match=r"^model_type: expected one of t5, mt5, umt5, got 'bert'"):
        AutoT5EncoderModel.from_config(transformers.BertConfig())
