"""A content key changes with every input of the computation, and with nothing else."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from t5enc import TextEncoder
from t5enc.errors import ConfigError
from t5enc.recipes.families import FAMILIES
from t5enc.recipes.recipe import Recipe
from t5enc.text.content_keys import KEY_BYTES, hash_computation, hash_prompt, hash_prompts
from t5enc.text.preparer import Preparer, check_fit
from t5enc.text.prompts import Document, Prompt

ROOT = Path(__file__).resolve().parents[3]
COMPUTATION = hash_computation(weights="w", dtype="float32")
FINISHES = ("none", "add_norms", "project")
IDS = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=6)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    ids = np.array(draw(IDS), np.int32)
    keys, kept = (draw(st.integers(0, len(ids))) for _ in range(2))
    return Document(ids, keys, kept, draw(st.sampled_from(FINISHES)))


PROMPTS = st.lists(documents(), max_size=3).map(lambda parts: Prompt(tuple(parts)))


def describe(prompt: Prompt) -> list[object]:
    return [(document.ids.tolist(), document.keys, document.kept, document.finish) for document in prompt.documents]


@given(PROMPTS, PROMPTS)
def test_keys_are_equal_where_prompts_are(one: Prompt, other: Prompt) -> None:
    keys = hash_prompt(COMPUTATION, one), hash_prompt(COMPUTATION, other)
    assert (keys[0] == keys[1]) == (describe(one) == describe(other))


@given(PROMPTS.filter(lambda prompt: bool(prompt.documents)), st.data())
def test_any_single_change_of_a_prompt_is_another_key(prompt: Prompt, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(prompt.documents) - 1))
    document = prompt.documents[place]
    change = data.draw(st.sampled_from(["id", "keys", "kept", "finish", "longer", "shorter", "without", "cut"]))
    others = {
        "id": lambda: [replace(document, ids=np.bitwise_xor(document.ids, [*[0] * (len(document.ids) - 1), 1]))],
        "keys": lambda: [replace(document, keys=document.keys + 1)],
        "kept": lambda: [replace(document, kept=document.kept + 1)],
        "finish": lambda: [replace(document, finish=FINISHES[FINISHES.index(document.finish) - 1])],
        "longer": lambda: [replace(document, ids=np.append(document.ids, np.int32(0)))],
        "shorter": lambda: [replace(document, ids=document.ids[:-1])],
        "without": lambda: [],
        "cut": lambda: [replace(document, ids=document.ids[:1]), replace(document, ids=document.ids[1:])],
    }
    parts = list(prompt.documents)
    parts[place : place + 1] = others[change]()
    assert hash_prompt(COMPUTATION, Prompt(tuple(parts))) != hash_prompt(COMPUTATION, prompt)


@given(st.text(), st.text(), st.one_of(st.none(), st.text()))
def test_another_computation_is_another_key(weights: str, dtype: str, projection: str | None) -> None:
    found = hash_computation(weights=weights, dtype=dtype, projection=projection)
    others = [
        hash_computation(weights=f"{weights}0", dtype=dtype, projection=projection),
        hash_computation(weights=weights, dtype=f"{dtype}0", projection=projection),
        hash_computation(weights=weights, dtype=dtype, projection="none" if projection is None else None),
        hash_computation(weights=dtype, dtype=weights, projection=projection) if weights != dtype else b"",
    ]
    assert found not in others
    prompt = Prompt.of(np.array([1, 2], np.int32))
    assert len({hash_prompt(one, prompt) for one in [found, *others[:3]]}) == 4


def test_a_caption_without_a_prompt_has_none() -> None:
    prompt = Prompt.of(np.array([3, 1], np.int32))
    keys = hash_prompts(COMPUTATION, [None, prompt])
    assert keys.shape == (2, KEY_BYTES)
    assert not keys[0].any()
    assert keys[1].tobytes() == hash_prompt(COMPUTATION, prompt)


def test_a_key_does_not_depend_on_how_ids_lie_in_memory() -> None:
    ids = np.arange(12, dtype=np.int32)
    keys = {hash_prompt(COMPUTATION, Prompt.of(part)) for part in (ids[::2], ids[::2].copy(), ids[::2].astype(">i4"))}
    assert len(keys) == 1


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.from_pretrained("builtin:tiny", deterministic=True)


def test_equal_keys_are_equal_embeddings_under_every_recipe(encoder: TextEncoder) -> None:
    """Whatever recipes make of captions: what has one key has one embedding."""
    captions = ["", "a red bird", "a  red bird", "A red bird.", "two birds " * 40]
    found: dict[bytes, list[torch.Tensor]] = defaultdict(list)
    fitting = 0
    recipes: list[Recipe | None] = [None, *FAMILIES]
    for recipe in recipes:
        try:
            preparer = prepare_under(encoder, recipe)
        except ConfigError:
            continue
        fitting += 1
        prompts = preparer.prepare(captions).prompts
        encoded = encoder.encode_ragged(prompts).embeddings
        for prompt, rows in zip(prompts, encoded, strict=True):
            found[hash_prompt(COMPUTATION, prompt)].append(rows)
    assert fitting > 10
    assert any(len(rows) > 1 for rows in found.values())
    for same in found.values():
        assert all(torch.equal(rows, same[0]) for rows in same)


def prepare_under(encoder: TextEncoder, recipe: Recipe | None) -> Preparer:
    """A preparer of this encoder's tokenizer; ConfigError where the recipe is for another model, or too long."""
    if recipe is None:
        return encoder.preparer
    check_fit(recipe, encoder.config, encoder.tokenizer)
    made = Preparer.under(recipe, encoder.tokenizer)
    if made.longest > encoder.preparer.longest:
        raise ConfigError("longer than this encoder takes")
    return made


@given(IDS, st.sampled_from(["bfloat16", "float32"]), st.sampled_from([None, "ab" * 32]))
def test_the_code_of_the_document_computes_keys(ids: list[int], dtype: str, projection: str | None) -> None:
    page = (ROOT / "docs" / "format.md").read_text()
    (code,) = re.findall(r"```python\n(import hashlib\n.*?)```", page, re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    identity = {"weights": "9f86", "dtype": dtype, "max_length": 9} | ({"projection": projection} if projection else {})
    computation = hash_computation(weights="9f86", dtype=dtype, projection=projection)
    assert names["make_key"](identity, ids) == hash_prompt(computation, Prompt.of(np.array(ids, np.int32)))


@given(PROMPTS)
def test_a_key_is_what_the_document_says_byte_for_byte(prompt: Prompt) -> None:
    told = b'{"dtype": "float32", "projection": null, "version": 1, "weights": "w"}'
    data = hashlib.sha256(told).digest()
    for document in prompt.documents:
        word, ids = document.finish.encode("ascii"), document.ids.tolist()
        for number in (document.kept, document.keys, len(word), len(ids)):
            data += number.to_bytes(4, "little", signed=True)
        data += word + b"".join(number.to_bytes(4, "little", signed=True) for number in ids)
    assert hash_prompt(COMPUTATION, prompt) == hashlib.sha256(data).digest()[:16]
