"""Random checkpoints of every family, each made once a session, and encoders of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from t5enc.text_encoder import TextEncoder
from tests.families import make_checkpoint


class Made(NamedTuple):
    """A checkpoint's folder, and the transformers model whose weights lie there."""

    folder: Path
    model: Any


Make = Callable[..., Made]
# Compiled Flex where another quick test compiles it, too.
FLEX = pytest.param("flex_attention", marks=pytest.mark.long)


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """`make(family, **changed_fields)`; the same call gives the same checkpoint, which nobody changes."""
    known: dict[str, Made] = {}

    def make_once(family: str = "t5_v1_1", **fields: Any) -> Made:
        key = f"{family} {sorted(fields.items())}"
        if key not in known:
            folder = tmp_path_factory.mktemp(family)
            known[key] = Made(folder, make_checkpoint(family, folder, **fields))
        return known[key]

    return make_once


@pytest.fixture(scope="session")
def compiler() -> None:
    """For tests that compile: skips where there is no C++ compiler, and imports Inductor, which warns of itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import torch._inductor.compile_fx
        from torch._inductor.cpp_builder import get_cpp_compiler
    try:
        get_cpp_compiler()
    except torch._inductor.exc.InvalidCxxCompiler:
        pytest.skip("compiled Flex on a CPU needs a C++ compiler (g++ or clang++)")


def load(folder: Path, **options: Any) -> TextEncoder:
    """An encoder of a checkpoint without tokenizer, which then reads bytes."""
    return TextEncoder.from_pretrained(folder, tokenizer="byt5", **options)
