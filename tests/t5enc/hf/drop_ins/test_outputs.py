"""What a drop-in is and what it gives: all that transformers' class gives, under the same names."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers

import t5enc.hf
from t5enc.errors import ConfigError, InputError
from tests.families import FAMILIES
from tests.t5enc.conftest import Make
from tests.t5enc.hf.drop_ins.pairs import Pair, draw_batch, drop_in, encode, load, relative
from tests.t5enc.reference import ROUNDING


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
    assert type(output) is type(pair.theirs(ids))
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
