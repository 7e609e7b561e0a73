"""sentence-t5, gtr-t5: one vector a text as sentence-transformers gives it, or a refusal; tokens are as ever."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import t5enc
from t5enc.checkpoint.convert import convert
from t5enc.embeddings import Embeddings
from t5enc.errors import CheckpointError, ConfigError, InputError
from t5enc.text_encoder import TextEncoder
from tests.t5enc.checkpoint.foreign.sentence_models import (
    DIM,
    NORMALIZE,
    SENTENCE_T5,
    TANH,
    Module,
    dense,
    draw,
    pooling,
    write_model,
)

TEXTS = ["a red bird", "", "two dogs run along a beach at dusk", "rain"]
WEIGHT, BIAS, WIDE = draw(DIM, seed=1), draw(1, seed=2)[0], draw(2 * DIM, seed=3)
# Modules, and the same in plain words: rows of one text to its vector.
MODELS: dict[str, tuple[Sequence[Module], Callable[[Tensor], Tensor]]] = {
    "sentence-t5": (SENTENCE_T5, lambda rows: F.normalize(draw(DIM) @ rows.mean(0), dim=0)),
    "no dense layer": ((pooling(), NORMALIZE), lambda rows: F.normalize(rows.mean(0), dim=0)),
    "wider, with bias and tanh": (
        (pooling(), dense(WIDE, draw(1, 2 * DIM)[0], TANH)),
        lambda rows: torch.tanh(WIDE @ rows.mean(0) + draw(1, 2 * DIM)[0]),
    ),
    "residual": (
        (pooling(), dense(WEIGHT, BIAS, use_residual=True)),
        lambda rows: WEIGHT @ rows.mean(0) + BIAS + rows.mean(0),
    ),
    "normalized before a dense layer": (
        (pooling(), NORMALIZE, dense(WEIGHT)),
        lambda rows: WEIGHT @ F.normalize(rows.mean(0), dim=0),
    ),
    "first and largest side by side": (
        (pooling(pooling_mode_cls_token=True, pooling_mode_max_tokens=True), ("Dropout", {"dropout": 0.5}, {})),
        lambda rows: torch.cat([rows[0], rows.amax(0)]),
    ),
    "root of the length": (
        (pooling(pooling_mode_mean_sqrt_len_tokens=True),),
        lambda rows: rows.sum(0) / len(rows) ** 0.5,
    ),
    "last": ((("Pooling", {"embedding_dimension": DIM, "pooling_mode": "lasttoken"}, {}),), lambda rows: rows[-1]),
    "later ones weigh more": (
        (("Pooling", {"embedding_dimension": DIM, "pooling_mode": ["weightedmean"]}, {}),),
        lambda rows: (
            sum((place * row for place, row in enumerate(rows, 1)), torch.zeros(DIM))
            / (len(rows) * (len(rows) + 1) / 2)
        ),
    ),
}


def load(folder: Path | str, **options: Any) -> TextEncoder:
    return TextEncoder.from_pretrained(folder, **options)


def assert_near(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).norm() / expected.norm()) < 2e-5


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("is_pickled", [False, True], ids=["safetensors", "bin"])
def test_a_text_gets_the_vector_that_the_modules_make_of_its_tokens(
    name: str, is_pickled: bool, tmp_path: Path
) -> None:
    modules, make_vector = MODELS[name]
    found = load(write_model(tmp_path / "model", modules, is_pickled=is_pickled)).encode(TEXTS)
    assert_near(found.pooled(), torch.stack([make_vector(rows) for rows in found]))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.skipif(find_spec("sentence_transformers") is None, reason="sentence-transformers is not installed")
@pytest.mark.filterwarnings("ignore")
def test_it_is_the_vector_of_sentence_transformers(name: str, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found,unused-ignore]

    folder = write_model(tmp_path / "model", MODELS[name][0])
    theirs = SentenceTransformer(str(folder), device="cpu").encode([*TEXTS, "a long text " * 40])
    assert_near(load(folder).encode([*TEXTS, "a long text " * 40]).pooled(), torch.as_tensor(theirs))


def test_tokens_are_those_of_the_encoder_alone_and_texts_are_cut_where_the_model_says(tmp_path: Path) -> None:
    found = load(write_model(tmp_path / "model")).encode([*TEXTS, "a long text " * 40])
    plain = load("builtin:tiny", max_length=40).encode([*TEXTS, "a long text " * 40])
    assert torch.equal(found.values, plain.values)
    assert int(found.lengths[-1]) == 40
    assert load(tmp_path / "model", max_length=64).tokenizer.max_length == 64


def test_an_encoder_in_a_folder_of_its_own_is_found(tmp_path: Path) -> None:
    found = load(write_model(tmp_path / "a")).encode(TEXTS).pooled()
    assert torch.equal(load(write_model(tmp_path / "b", encoder="0_Transformer")).encode(TEXTS).pooled(), found)


def test_unit_length_can_be_had_or_left_out(tmp_path: Path) -> None:
    found = load(write_model(tmp_path / "model")).encode(TEXTS)
    raw = found.pooled(normalize=False)
    assert_near(raw, torch.stack([draw(DIM) @ rows.mean(0) for rows in found]))
    assert_near(F.normalize(raw, dim=-1), found.pooled("mean", normalize=True))


def test_another_method_than_the_models_own_is_refused(tmp_path: Path) -> None:
    found = load(write_model(tmp_path / "model")).encode(TEXTS)
    with pytest.raises(
        InputError, match=r"pooled: expected mean, as the checkpoint's modules.json has it, got 'first'"
    ):
        found.pooled("first")


def test_slices_and_joined_embeddings_pool_alike_and_no_tokens_are_zeros(tmp_path: Path) -> None:
    found = load(write_model(tmp_path / "model")).encode(TEXTS)
    assert_near(found[1:3].pooled(), found.pooled()[1:3])
    assert_near(Embeddings.concatenate([found[:1], found[1:]]).pooled(), found.pooled())
    empty = Embeddings.from_lengths(found.values[:0], [0])
    assert not empty.pooled(pooler=found.pooler).any()


REFUSED: dict[str, tuple[Sequence[Module], str]] = {
    "a module of the model's own": (
        (pooling(), ("mine.Whitening", {}, {})),
        "expected Dense, Normalize or Dropout, got mine.Whitening",
    ),
    "no pooling": ((), "expected Transformer and Pooling first, got Transformer"),
    "an unknown activation": (
        (pooling(), dense(WEIGHT, activation="mine.Swirl")),
        "2_Dense: activation_function: expected PyTorch's .*, got mine.Swirl",
    ),
    "a dense layer of tokens": (
        (pooling(), dense(WEIGHT, module_input_name="token_embeddings")),
        "2_Dense: module_input_name: expected sentence_embedding, got 'token_embeddings'",
    ),
    "another width": (
        (pooling(), dense(draw(DIM, DIM + 1))),
        r"2_Dense: linear.weight: expected \(64, 64\), got \(64, 65\)",
    ),
    "no weights": ((pooling(), ("Dense", {"bias": False, "activation_function": TANH}, {})), "2_Dense: no model"),
    "a bias too few": (
        (pooling(), ("Dense", {"bias": True}, {"linear.weight": WEIGHT})),
        "2_Dense: expected the tensors linear.bias, linear.weight, got linear.weight",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_modelled_is_refused_by_name_and_tokens_are_encoded(name: str, tmp_path: Path) -> None:
    modules, reason = REFUSED[name]
    found = load(write_model(tmp_path / "model", modules)).encode(TEXTS)
    assert len(found.values) > len(TEXTS)
    with pytest.raises(ConfigError, match=f"pooled: .*{reason}"):
        found.pooled()


@pytest.mark.parametrize(
    ("file", "settings", "reason"),
    [
        ("config_sentence_transformers.json", {"prompts": {"q": "query: "}, "default_prompt_name": "q"}, "got 'q'"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case: expected false"),
    ],
)
def test_texts_that_would_be_changed_before_are_refused(
    file: str, settings: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    (write_model(tmp_path / "model") / file).write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=reason):
        load(tmp_path / "model").encode(TEXTS).pooled()


def test_a_damaged_list_of_modules_is_named(tmp_path: Path) -> None:
    (write_model(tmp_path / "model") / "modules.json").write_text('[{"path": ""}]')
    with pytest.raises(CheckpointError, match=r"modules.json: expected a list of modules, got KeyError: 'type'"):
        load(tmp_path / "model")


def test_a_converted_model_pools_as_its_source(tmp_path: Path) -> None:
    expected = load(write_model(tmp_path / "model", encoder="0_Transformer")).encode(TEXTS).pooled()
    done = convert(tmp_path / "model", tmp_path / "out")
    assert {"modules.json", "2_Dense/model.safetensors", "sentence_bert_config.json"} <= set(done.files)
    converted = load(tmp_path / "out")
    assert converted.tokenizer.max_length == 40
    assert torch.equal(converted.encode(TEXTS).pooled(), expected)
    convert(tmp_path / "model", tmp_path / "out", overwrite=True)
    convert("builtin:tiny", tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "modules.json").exists()


def test_the_modules_are_opened_without_the_encoder(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    found = load(folder).encode(TEXTS)
    (folder / "model.safetensors").unlink()
    bare = Embeddings(found.values, found.offsets)
    assert torch.equal(bare.pooled(pooler=t5enc.open_pooler(folder)), found.pooled())
    assert torch.equal(bare.pooled(pooler=t5enc.open_pooler("builtin:tiny")), bare.pooled())
