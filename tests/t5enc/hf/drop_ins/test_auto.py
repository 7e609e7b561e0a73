"""The class in the place of nai-t5-wrapper's: it finds the family, and takes the same options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from t5enc.errors import ConfigError, InputError
from t5enc.hf import AutoT5EncoderModel
from tests.families import FAMILIES
from tests.t5enc.conftest import Make
from tests.t5enc.hf.drop_ins.pairs import draw_batch, drop_in, encode, relative
from tests.t5enc.reference import ROUNDING


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


OPTIONS: list[dict[str, Any]] = [{"dtype": torch.float16}, {"use_flex_attention": True}, {"device_map": "auto"}]


@pytest.mark.long
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_auto_is_compiled_with_the_options_of_its_predecessor(
    options: dict[str, Any], make: Make, compiler: None
) -> None:
    folder, theirs = make("t5_v1_1")
    ids, mask = draw_batch()
    model = AutoT5EncoderModel.from_pretrained(folder, **options).compile()
    assert relative(encode(model, ids, mask), encode(theirs, ids, mask)) < 2e-3


def test_auto_takes_the_options_of_its_predecessor(make: Make) -> None:
    folder, theirs = make("t5_v1_1")
    ids, mask = draw_batch()
    load_auto: Callable[..., Any] = AutoT5EncoderModel.from_pretrained
    for options in (OPTIONS[0], OPTIONS[2]):
        assert relative(encode(load_auto(folder, **options), ids, mask), encode(theirs, ids, mask)) < 2e-3
    assert load_auto(folder, use_flex_attention=True).config._attn_implementation == "flex_attention"
    assert load_auto(folder, device_map="cpu").config._attn_implementation == "sdpa"
    with pytest.raises(ConfigError, match=r"^model_type: expected one of t5, mt5, umt5, got 'bert'"):
        AutoT5EncoderModel.from_config(transformers.BertConfig())
