"""LoRA adapters of PEFT's in a checkpoint's weights: the numbers of PEFT, in every layout, part of the fingerprint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

import t5enc.hf as hf
from t5enc.checkpoint.builtin import write_builtin
from t5enc.checkpoint.convert import convert
from t5enc.checkpoint.foreign.lora import split_scale
from t5enc.checkpoint.opening import open_model
from t5enc.errors import CheckpointError, ConfigError
from t5enc.options import EncoderOptions, ModelSource
from t5enc.text_encoder import TextEncoder
from tests.families import make_checkpoint
from tests.t5enc.reference import ROUNDING, distance, random_ids, reference

# transformers' word on what peft calls.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
IDS = random_ids([3, 17, 40])
ALL = ["q", "k", "v", "o", "wi_0", "wi_1", "wo"]
CONFIGS: dict[str, dict[str, Any]] = {
    "q and v": {"r": 4, "target_modules": ["q", "v"]},
    "all of them": {"r": 2, "target_modules": ALL, "lora_alpha": 3},
    "rank-stabilised": {"r": 4, "target_modules": ["k", "wo"], "use_rslora": True},
    "ranks and alphas of some modules": {
        "r": 4,
        "target_modules": ALL,
        "rank_pattern": {"block.1.layer.0.SelfAttention.q": 2, "wo": 1},
        "alpha_pattern": {"o": 5, r"^encoder\.block\.0\..*wi_0$": 7},
    },
    "some layers": {"r": 4, "target_modules": ["q"], "layers_to_transform": [1], "layers_pattern": "block"},
}


def train(folder: Path, adapter: Path, seed: int = 0, **config: Any) -> Any:
    """An adapter of random weights on transformers' class, and the model under it."""
    import transformers

    model = get_peft_model(transformers.T5EncoderModel.from_pretrained(folder), LoraConfig(**config)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.save_pretrained(adapter)
    return model


def encode(folder: Path, lora: str | None, **options: Any) -> list[torch.Tensor]:
    return list(TextEncoder.from_pretrained(folder, tokenizer="byt5", lora=lora, **options).encode_tokens(IDS))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    make_checkpoint("t5_v1_1", tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("name", CONFIGS)
def test_an_adapter_made_for_transformers_gives_pefts_numbers(name: str, base: Path, tmp_path: Path) -> None:
    model = train(base, tmp_path / "adapter", **CONFIGS[name])
    expected = reference(model, IDS)
    assert distance(encode(base, str(tmp_path / "adapter")), expected) < ROUNDING
    assert distance(encode(base, None), expected) > 1e-2


def test_several_are_added_each_with_its_scale(base: Path, tmp_path: Path) -> None:
    import transformers

    for seed, name in enumerate("ab"):
        train(base, tmp_path / name, seed, r=4, target_modules=["q", "wo"])
    model = transformers.T5EncoderModel.from_pretrained(base)
    for name, scale in (("a", 0.5), ("b", -1.0)):
        model = PeftModel.from_pretrained(model, tmp_path / name)
        for module in model.modules():
            if isinstance(getattr(module, "scaling", None), dict):
                module.scaling["default"] *= scale
        model = model.merge_and_unload()
    found = encode(base, f"{tmp_path / 'a'}:0.5, {tmp_path / 'b'}:-1")
    assert distance(found, reference(model.eval(), IDS)) < ROUNDING


def test_a_checkpoint_that_was_converted_takes_it_too_and_conversion_keeps_it(base: Path, tmp_path: Path) -> None:
    model = train(base, tmp_path / "adapter", r=4, target_modules=ALL)
    expected = reference(model, IDS)
    convert(base, tmp_path / "fused")
    assert distance(encode(tmp_path / "fused", str(tmp_path / "adapter")), expected) < ROUNDING
    convert(ModelSource(model=str(base), lora=str(tmp_path / "adapter")), tmp_path / "merged")
    assert distance(encode(tmp_path / "merged", None), expected) < ROUNDING


def test_an_adapter_made_for_the_drop_ins_fused_layers_is_taken(base: Path, tmp_path: Path) -> None:
    config = LoraConfig(r=4, target_modules=["attention.qkv", "feed_forward.down"])
    model = get_peft_model(hf.T5EncoderModel.from_pretrained(base), config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    model.save_pretrained(tmp_path / "adapter")
    assert distance(encode(base, str(tmp_path / "adapter")), reference(model, IDS)) < ROUNDING


@pytest.mark.parametrize("place", ["", "builtin:tiny"], ids=["files", "made in memory"])
def test_the_fingerprint_tells_adapters_and_scales_apart(place: str, base: Path, tmp_path: Path) -> None:
    if place:
        write_builtin(place, base)
    for seed, name in enumerate("ab"):
        train(base, tmp_path / name, seed, r=2, target_modules=["q"])
    a, b = tmp_path / "a", tmp_path / "b"
    loras = [None, f"{a}", f"{b}", f"{a}:0.5", f"{a},{b}", f"{a}:1.0"]
    sources = [ModelSource(model=place or str(base), lora=lora) for lora in loras]
    found = [open_model(source).fingerprint(tmp_path) for source in sources]
    assert len(set(found[:-1])) == len(loras) - 1
    assert found[-1] == found[1]


def test_it_is_an_option_of_the_encoder(tmp_path: Path) -> None:
    assert EncoderOptions(model="builtin:tiny", lora="a:0.5").source.lora == "a:0.5"


@pytest.mark.parametrize(
    ("text", "place", "scale"),
    [("a", "a", 1.0), ("a:0.5", "a", 0.5), (" org/a:-2 ", "org/a", -2.0), ("C:a", "C:a", 1.0), ("a:b:3", "a:b", 3.0)],
)
def test_a_scale_is_the_number_after_the_last_colon(text: str, place: str, scale: float) -> None:
    assert split_scale(text) == (place, scale)


REFUSED = [
    ({"use_dora": True}, "use_dora: expected none, since plain LoRA alone is modelled, got True"),
    ({"peft_type": "LOHA"}, "peft_type: expected LORA, got 'LOHA'"),
    ({"bias": "all"}, "bias: expected none"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights: expected none"),
    ({"modules_to_save": ["shared"]}, "modules_to_save: expected none"),
    ({"a_field_of_next_year": 3}, "a_field_of_next_year: expected none"),
]


@pytest.mark.parametrize(("fields", "reason"), REFUSED, ids=[next(iter(fields)) for fields, _ in REFUSED])
def test_what_is_more_than_lora_is_refused_by_name(
    fields: dict[str, Any], reason: str, base: Path, tmp_path: Path
) -> None:
    train(base, tmp_path / "adapter", r=2, target_modules=["q"])
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(ConfigError, match=reason):
        encode(base, str(tmp_path / "adapter"))


def test_weights_that_do_not_fit_are_named(base: Path, tmp_path: Path) -> None:
    train(base, tmp_path / "adapter", r=2, target_modules=["q"])
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    good = load_file(path)
    name = "base_model.model.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight"
    for changed, reason in (
        ({name: torch.ones(2, 7)}, r"q.weight: expected an adapter of \(48, 64\), got \(48, 2\) x \(2, 7\)"),
        ({name: torch.ones(3, 64)}, "q: expected rank 2 and a number as alpha, got 3"),
        ({"base_model.model.encoder.block.0.q.lora_magnitude_vector": torch.ones(2)}, "expected pairs of lora_A"),
    ):
        save_file(good | changed, path)
        with pytest.raises(CheckpointError, match=reason):
            encode(base, str(tmp_path / "adapter"))
    save_file({key.replace("encoder.block.0", "encoder.block.9"): value for key, value in good.items()}, path)
    with pytest.raises(CheckpointError, match=r"lora: encoder.block.9.*: expected a weight of the encoder, got no"):
        encode(base, str(tmp_path / "adapter"))
    save_file({key.replace("encoder.", "decoder."): value for key, value in good.items()}, path)
    with pytest.raises(CheckpointError, match="expected an adapter of a T5 encoder, got base_model"):
        encode(base, str(tmp_path / "adapter"))


def test_a_folder_without_an_adapter_is_named(base: Path) -> None:
    with pytest.raises(CheckpointError, match=r"lora: no adapter_config.json in .*base"):
        encode(base, str(base))


def test_norms_that_are_multiplied_in_are_refused(base: Path, tmp_path: Path) -> None:
    train(base, tmp_path / "adapter", r=2, target_modules=["q"])
    convert(base, tmp_path / "fused", fuse_norms=True)
    with pytest.raises(ConfigError, match="lora: expected a checkpoint with its norms apart"):
        encode(tmp_path / "fused", str(tmp_path / "adapter"))
