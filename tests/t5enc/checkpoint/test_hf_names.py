"""The table of names: it holds every tensor of transformers' models and of the drop-ins, each once."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import t5enc.hf
from t5enc.checkpoint.builtin import MODELS, open_builtin
from t5enc.checkpoint.hf_names import (
    EMBEDDING,
    OWN_EMBEDDING,
    PREFIXES,
    count_layers,
    name_fused,
    name_parts,
    name_weights,
)
from t5enc.config import EncoderConfig
from tests.families import FAMILIES
from tests.t5enc.conftest import Make


@pytest.mark.parametrize("family", FAMILIES)
def test_names_are_those_of_transformers_and_of_the_drop_in(family: str, make: Make) -> None:
    made = make(family)
    config = EncoderConfig.from_hf(json.loads((made.folder / "config.json").read_text()))
    theirs = set(made.model.state_dict()) - {OWN_EMBEDDING}
    assert {part for parts in name_weights(config).values() for part in parts} == theirs
    assert all(name.startswith(PREFIXES) for name in theirs)
    assert count_layers(theirs) == config.num_layers

    ours = getattr(t5enc.hf, FAMILIES[family]["class"]).from_pretrained(made.folder)
    fused = {stored for (stored,) in name_fused(config, has_fused_norms=False).values()}
    assert fused == set(ours.state_dict()) - {OWN_EMBEDDING}
    assert fused == (theirs - {part for parts in name_parts(config).values() for part in parts}) | set(
        name_parts(config)
    )


def test_fused_norms_have_names_of_their_own() -> None:
    config = open_builtin("tiny").config
    plain, fused = (name_fused(config, has_fused_norms=fuses) for fuses in (False, True))
    differing = set(fused.values()) - set(plain.values())
    assert len(differing) == 2 * config.num_layers
    assert all(name.endswith("_norm.fused_scale") for (name,) in differing)
    assert plain["embedding.weight"] == (EMBEDDING,)


@pytest.mark.parametrize("name", MODELS)
def test_a_config_written_for_hugging_face_is_read_as_it_was(name: str) -> None:
    config = open_builtin(name).config
    for one in (config, replace(config, scale_logits=True), replace(config, is_gated=False, activation="relu")):
        assert EncoderConfig.from_hf(one.to_hf()) == one
