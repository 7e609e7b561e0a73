"""Where Flex runs: small heads, float64 and gradients stand in its way, each said in words."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from t5enc.checkpoint.builtin import open_builtin
from t5enc.model.attention.flex_support import find_flex_obstacle, find_missing_compiler, suits_flex

CONFIG = open_builtin("tiny").config
SMALL = replace(CONFIG, head_dim=8)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_nothing_stands_in_the_way_of_what_flex_takes() -> None:
    for dtype in (None, torch.float32, torch.bfloat16, torch.float16):
        assert find_flex_obstacle(CONFIG, CUDA, dtype=dtype) is None
    assert find_flex_obstacle(SMALL, CPU) is None


def test_every_obstacle_is_named() -> None:
    assert find_flex_obstacle(SMALL, CUDA) == "flex on cuda needs heads of at least 16, and the model's have d_kv 8"
    assert find_flex_obstacle(CONFIG, CPU, dtype=torch.float64) == "flex computes in float32 or less"
    assert find_flex_obstacle(CONFIG, CPU, needs_grad=True) == "flex has no derivative here"
    assert find_missing_compiler(CUDA) is None


@pytest.mark.parametrize("has_triton", [False, True])
def test_flex_suits_cuda_with_triton_alone(has_triton: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if has_triton else None)
    assert suits_flex(CONFIG, CUDA) is has_triton
    assert not suits_flex(CONFIG, CPU)
    assert not suits_flex(SMALL, CUDA)
