"""Norms fused into the layers behind them compute the same, and are saved as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from t5enc.errors import CheckpointError, ConfigError
from tests.t5enc.conftest import Make
from tests.t5enc.hf.drop_ins.pairs import Pair, draw_batch, encode, load, relative
from tests.t5enc.reference import ROUNDING


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
