"""PEFT's adapters with transformers' names (q, k, v, o, wi_0, wi_1, wo) on the drop-ins, and back."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from t5enc import hf
from t5enc.errors import ConfigError
from tests.t5enc.conftest import Make
from tests.t5enc.hf.drop_ins.pairs import drop_in
from tests.t5enc.hf.test_peft import encode, train
from tests.t5enc.reference import ROUNDING, distance

peft = pytest.importorskip("peft", reason="needs peft")
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
GATED = ["q", "k", "v", "o", "wi_0", "wi_1", "wo"]


def their_class(family: str) -> Any:
    return drop_in(family).base_class


def names_of(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_modules()]


def draw(model: Any, scale: float = 0.2) -> Any:
    """The model with adapters that change something."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def save_adapter(make: Make, family: str, folder: Path, scale: float = 0.2, **fields: Any) -> Tensor:
    """An adapter of transformers' class in the folder, and what the model gives with it."""
    plain = their_class(family).from_pretrained(make(family).folder)
    adapted = draw(peft.get_peft_model(plain, peft.LoraConfig(**{"r": 4, **fields})), scale)
    adapted.save_pretrained(folder)
    return encode(adapted)


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("t5_v1_1", {"target_modules": ["q", "v"]}),
        ("t5_v1_1", {"target_modules": GATED, "rank_pattern": {"k": 2}, "alpha_pattern": {"wi_1": 3}}),
        ("t5_v1_1", {"target_modules": "all-linear"}),
        ("t5_v1_1", {"target_modules": r".*\.1\..*\.(wi_1|k)", "use_rslora": True}),
        ("t5_v1_1", {"target_modules": ["o", "wi_0"], "use_dora": True}),
        ("t5_v1_0", {"target_modules": ["wi", "wo"]}),
        ("t5_v1_0", {}),
        ("umt5", {"target_modules": ["k", "wo"], "layers_to_transform": [1]}),
        ("mt5", {"target_modules": ["v"], "modules_to_save": ["o"]}),
    ],
)
def test_an_adapter_of_transformers_gives_its_numbers_and_can_be_merged(
    make: Make, tmp_path: Path, family: str, fields: dict[str, Any]
) -> None:
    expected = save_adapter(make, family, tmp_path, **fields)
    ours = drop_in(family).from_pretrained(make(family).folder).eval()
    names, base = names_of(ours), encode(ours)

    adapted = peft.PeftModel.from_pretrained(ours, tmp_path).eval()
    assert distance([encode(adapted)], [expected]) < ROUNDING
    assert distance([base], [expected]) > 100 * ROUNDING
    with adapted.disable_adapter():
        assert distance([encode(adapted)], [base]) < ROUNDING
    assert distance([encode(deepcopy(adapted))], [expected]) < ROUNDING

    merged = adapted.merge_and_unload()
    assert merged is ours
    assert names_of(merged) == names
    assert distance([encode(merged)], [expected]) < ROUNDING
    assert distance([encode(merged.to_transformers())], [expected]) < ROUNDING


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_16_bit_it_is_no_less_accurate_than_transformers(make: Make, tmp_path: Path, dtype: str) -> None:
    expected = save_adapter(make, "t5_v1_1", tmp_path, scale=0.05, target_modules=GATED)
    errors = []
    for cls in (transformers.T5EncoderModel, hf.T5EncoderModel):
        model = cls.from_pretrained(make("t5_v1_1").folder, dtype=dtype)
        adapted = peft.PeftModel.from_pretrained(model, tmp_path).eval()
        errors.append(distance([encode(adapted).float()], [expected]))
    assert errors[1] < errors[0]


def test_an_adapter_trained_here_is_loaded_by_transformers(make: Make, tmp_path: Path) -> None:
    adapted = peft.get_peft_model(
        hf.T5EncoderModel.from_pretrained(make().folder), peft.LoraConfig(r=4, target_modules=["q", "v", "wo"])
    ).eval()
    base = encode(adapted)
    train(adapted)
    adapted.save_pretrained(tmp_path)

    plain = transformers.T5EncoderModel.from_pretrained(make().folder)
    assert distance([encode(adapted)], [base]) > 100 * ROUNDING
    assert distance([encode(peft.PeftModel.from_pretrained(plain, tmp_path).eval())], [encode(adapted)]) < ROUNDING


def test_weights_stay_where_adapters_are_made_empty(make: Make, tmp_path: Path) -> None:
    expected = save_adapter(make, "t5_v1_1", tmp_path, target_modules=["q", "wo"])
    ours = hf.T5EncoderModel.from_pretrained(make("t5_v1_1").folder)
    adapted = peft.PeftModel.from_pretrained(ours, tmp_path, low_cpu_mem_usage=True).eval()
    assert distance([encode(adapted)], [expected]) < ROUNDING
    assert distance([encode(adapted.merge_and_unload())], [expected]) < ROUNDING


def test_unloading_gives_the_weights_back_to_the_bit(make: Make) -> None:
    ours = hf.T5EncoderModel.from_pretrained(make().folder)
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    unloaded = draw(peft.get_peft_model(ours, peft.LoraConfig(target_modules=GATED))).unload()
    after = unloaded.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_two_adapters_take_turns(make: Make, tmp_path: Path) -> None:
    first = save_adapter(make, "t5_v1_1", tmp_path / "a", target_modules=["q", "v"])
    second = save_adapter(make, "t5_v1_1", tmp_path / "b", target_modules=["wi_0", "o"])
    adapted = peft.PeftModel.from_pretrained(hf.T5EncoderModel.from_pretrained(make("t5_v1_1").folder), tmp_path / "a")
    adapted.load_adapter(tmp_path / "b", "other")
    assert distance([encode(adapted.eval())], [first]) < ROUNDING
    adapted.set_adapter("other")
    assert distance([encode(adapted)], [second]) < ROUNDING


def test_transformers_own_methods_load_save_and_delete_one(make: Make, tmp_path: Path) -> None:
    expected = save_adapter(make, "t5_v1_1", tmp_path / "a", target_modules=["q", "wo"])
    ours = hf.T5EncoderModel.from_pretrained(make("t5_v1_1").folder).eval()
    base = encode(ours)
    ours.load_adapter(str(tmp_path / "a"))
    assert distance([encode(ours)], [expected]) < ROUNDING
    ours.save_pretrained(tmp_path / "b")
    again = transformers.T5EncoderModel.from_pretrained(make("t5_v1_1").folder).eval()
    again.load_adapter(str(tmp_path / "b"))
    assert distance([encode(again)], [expected]) < ROUNDING
    ours.delete_adapter("default")
    assert distance([encode(ours)], [base]) < ROUNDING


def test_layers_are_found_by_a_state_and_inside_of_a_larger_model(make: Make, tmp_path: Path) -> None:
    """As diffusers does it."""
    expected = save_adapter(make, "t5_v1_1", tmp_path, target_modules=["q", "wo"])
    state = peft.utils.load_peft_weights(tmp_path)
    state = {name.removeprefix("base_model.model."): tensor for name, tensor in state.items()}
    config = peft.LoraConfig(r=4, target_modules=["q"])
    ours = hf.T5EncoderModel.from_pretrained(make("t5_v1_1").folder).eval()
    with pytest.warns(RuntimeWarning, match="inconsistency"):
        peft.inject_adapter_in_model(config, ours, state_dict=state)
    peft.set_peft_model_state_dict(ours, state)
    assert distance([encode(ours)], [expected]) < ROUNDING

    around = nn.ModuleDict({"text": hf.T5EncoderModel.from_pretrained(make("t5_v1_1").folder)})
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["q"]), around)
    assert any(name.startswith("text.encoder.block.0.layer.0.SelfAttention.q.lora_A") for name in names_of(around))


def test_states_of_both_layouts_load_beside_an_adapter(make: Make) -> None:
    ours = hf.T5EncoderModel.from_pretrained(make("t5_v1_1").folder).eval()
    expected, fused = encode(ours), {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    plain = ours.to_transformers().state_dict()
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["q"]), ours)
    for state in (fused, plain):
        with torch.no_grad():
            ours.encoder.block[0].layer[1].DenseReluDense.wo.weight.zero_()
        ours.load_state_dict(state, strict=False)
        assert distance([encode(ours)], [expected]) < ROUNDING


def test_what_cannot_be_done_is_said_by_name(make: Make) -> None:
    folder = make("t5_v1_1").folder
    for config, named in (
        (peft.LNTuningConfig(), r"encoder.block.0.layer.0.layer_norm: expected an adapter of linear layers"),
        (peft.LoraConfig(target_modules=["q", "relative_attention_bias"]), "relative_attention_bias: expected an"),
        (peft.LoraConfig(target_modules=["q"], modules_to_save=["SelfAttention"]), "SelfAttention: expected an"),
    ):
        with pytest.raises(ConfigError, match=named):
            peft.get_peft_model(hf.T5EncoderModel.from_pretrained(folder), config)

    q, qkv = (peft.LoraConfig(target_modules=[name]) for name in ("q", "attention.qkv"))
    adapted = peft.get_peft_model(hf.T5EncoderModel.from_pretrained(folder), qkv)
    with pytest.raises(ConfigError, match=r"attention.qkv: expected the model's own layer to split"):
        adapted.add_adapter("other", q)
    with pytest.raises(ConfigError, match=r"call unfuse_norms\(\) first"):
        peft.get_peft_model(hf.T5EncoderModel.from_pretrained(folder).fuse_norms(), q)
    ours = hf.T5EncoderModel.from_pretrained(folder)
    peft.get_peft_model(ours, q)
    for call in (ours.to_transformers, ours.fuse_norms, lambda: ours.replace_linears(lambda layer: layer)):
        with pytest.raises(ConfigError, match="merge or unload them first"):
            call()


def test_an_injection_that_fails_leaves_the_model_as_it_was(make: Make) -> None:
    ours = hf.T5EncoderModel.from_pretrained(make("t5_v1_1").folder)
    names = names_of(ours)
    with pytest.raises(ValueError, match="positive integer"):
        peft.get_peft_model(ours, peft.LoraConfig(r=0, target_modules=["q"]))
    assert names_of(ours) == names
