"""A case of transformers' model tests for each family's encoder, its class and ours."""

from __future__ import annotations

import unittest
from types import ModuleType
from typing import Any

import transformers

import t5enc.hf

# Family -> the name of its encoder, which transformers and we have alike.
ENCODERS = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
SIDES: dict[str, Any] = {"transformers": transformers, "t5enc": t5enc.hf}


class EncoderTester:
    """What the tests ask about a tiny encoder: its sizes, a config, and inputs for it."""

    batch_size = 13
    seq_length = encoder_seq_length = 7
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    is_training = True

    def __init__(self, model_class: type[Any], draw: Any) -> None:
        self.config_class = model_class.config_class
        self.draw = draw

    def get_config(self) -> Any:
        """A new config of the family."""
        return self.config_class(
            vocab_size=99,
            d_model=self.hidden_size,
            d_ff=37,
            d_kv=self.hidden_size // self.num_attention_heads,
            num_layers=self.num_hidden_layers,
            num_heads=self.num_attention_heads,
            relative_attention_num_buckets=8,
            dropout_rate=0.1,
            initializer_factor=0.002,
            eos_token_id=1,
            bos_token_id=0,
            pad_token_id=0,
            is_encoder_decoder=False,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, Any]]:
        """A config, and ids with a mask that has holes."""
        shape = [self.batch_size, self.seq_length]
        return self.get_config(), {"input_ids": self.draw(shape, 99), "attention_mask": self.draw(shape, 2)}


def make_case(common: ModuleType, model_class: type[Any], name: str) -> type[unittest.TestCase]:
    """transformers' mixin of all models' tests as a case about one class."""

    def set_up(case: Any) -> None:
        case.model_tester = EncoderTester(model_class, common.ids_tensor)

    fields = {
        "all_model_classes": (model_class,),
        "test_resize_embeddings": True,
        "setUp": set_up,
        "__module__": common.__name__,
    }
    return type(name, (common.ModelTesterMixin, unittest.TestCase), fields)


def make_pair(common: ModuleType, family: str) -> dict[str, type[unittest.TestCase]]:
    """The cases of a family by whose class they are about."""
    name = ENCODERS[family]
    return {side: make_case(common, getattr(module, name), f"{name}Test") for side, module in SIDES.items()}
