"""Prompts are the same after they have travelled, whatever documents a recipe makes of a caption."""

from __future__ import annotations

import pickle

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.actors.handover import FlatPrompts
from t5enc.text.prompts import Document, Prompt

DOCUMENTS = st.builds(
    lambda ids, keys, kept, finish: Document(np.array(ids, np.int32), keys, kept, finish),
    st.lists(st.integers(0, 32127), min_size=1, max_size=6),
    st.integers(1, 6),
    st.integers(0, 6),
    st.sampled_from(["none", "add_norms", "project"]),
)
PROMPTS = st.none() | st.builds(lambda documents: Prompt(tuple(documents)), st.lists(DOCUMENTS, max_size=3))


@given(st.lists(PROMPTS, max_size=8))
def test_prompts_travel_unchanged(prompts: list[Prompt | None]) -> None:
    sent = pickle.loads(pickle.dumps(FlatPrompts.of(prompts))).restore()
    assert len(sent) == len(prompts)
    for got, expected in zip(sent, prompts, strict=True):
        assert (got is None) == (expected is None)
        if got is not None and expected is not None:
            assert (got.key, got.rows, got.tokens) == (expected.key, expected.rows, expected.tokens)
            assert all(document.ids.dtype == np.int32 for document in got.documents)
