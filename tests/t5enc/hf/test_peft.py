"""LoRA of the PEFT library on the drop-ins' linear layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from t5enc import hf
from tests.t5enc.conftest import Make
from tests.t5enc.reference import ROUNDING, distance

peft = pytest.importorskip("peft", reason="needs peft")

# PEFT asks transformers for a property by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

LAYERS = ["attention.qkv", "attention.output", "feed_forward.up", "feed_forward.down"]
IDS = torch.tensor([[5, 9, 17, 44, 3, 1, 0, 0], [7, 8, 91, 250, 33, 12, 6, 1]])


def adapt(model: Any) -> Any:
    """The model with a new adapter of rank 4 on every linear layer."""
    torch.manual_seed(0)
    return peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=LAYERS)).eval()


def train(model: Any) -> None:
    """Two steps, since the first leaves A as it is: B is zero."""
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=1.0)
    for _ in range(2):
        model(IDS).last_hidden_state.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def encode(model: Any) -> Tensor:
    """(2, 8, M) hidden states."""
    return model(IDS).last_hidden_state  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", ["t5_v1_0", "t5_v1_1"])
def test_a_new_adapter_changes_nothing(make: Make, family: str) -> None:
    model = hf.T5EncoderModel.from_pretrained(make(family).folder)
    expected = encode(model)
    adapted = adapt(model)

    assert distance([encode(adapted)], [expected]) < ROUNDING
    adapters = [name for name, module in adapted.named_modules() if isinstance(module, peft.tuners.lora.LoraLayer)]
    assert len(adapters) == len(LAYERS) * model.config.num_layers


@pytest.mark.parametrize("family", ["t5_v1_0", "t5_v1_1"])
def test_a_trained_adapter_can_be_merged(make: Make, family: str) -> None:
    base = encode(make(family).model)
    adapted = adapt(hf.T5EncoderModel.from_pretrained(make(family).folder))
    before = {name: weight.clone() for name, weight in adapted.named_parameters() if weight.requires_grad}
    train(adapted)
    expected = encode(adapted)

    assert all(not torch.equal(adapted.get_parameter(name), weight) for name, weight in before.items())
    assert distance([expected], [base]) > 100 * ROUNDING
    merged = adapted.merge_and_unload()
    assert isinstance(merged, hf.T5EncoderModel)
    assert distance([encode(merged)], [expected]) < ROUNDING
    assert distance([encode(merged.to_transformers())], [expected]) < ROUNDING


def test_a_saved_adapter_is_loaded_again(make: Make, tmp_path: Path) -> None:
    adapted = adapt(hf.T5EncoderModel.from_pretrained(make().folder))
    train(adapted)
    adapted.save_pretrained(tmp_path)

    again = peft.PeftModel.from_pretrained(hf.T5EncoderModel.from_pretrained(make().folder), tmp_path).eval()

    assert torch.equal(encode(again), encode(adapted))
