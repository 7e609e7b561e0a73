"""Pairs of every kind of checkpoint."""

from __future__ import annotations

import pytest
import transformers

from tests.families import FAMILIES
from tests.t5enc.conftest import Make
from tests.t5enc.hf.drop_ins.pairs import Pair, load


@pytest.fixture(params=["t5_v1_0", "t5_v1_1", "mt5", "umt5"])
def pair(request: pytest.FixtureRequest, make: Make) -> Pair:
    folder, _ = make(request.param)
    base = getattr(transformers, FAMILIES[request.param]["class"])
    return Pair(folder, load(request.param, folder), base.from_pretrained(folder).eval())
