"""Texts to ids: equal to the checkpoint's own tokenizer, cut with the end token last, never padded."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5enc.checkpoint.builtin import open_builtin, sample_captions, write_builtin
from t5enc.errors import CheckpointError, ConfigError, InputError
from t5enc.text.tokenizer import Tokenizer, load_tokenizer

EDGES = [
    "",
    " ",
    "\n",
    "a\nb\tc\r\n",
    "🙂🏽 ok",
    "  two  spaces  ",
    "\x00",
    "ﬁ２ ①",
    "</s> <pad> <extra_id_0>",
    "e\u0301",
]
FOLDERS = ("t5", "mt5", "umt5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the built-in tokenizer in every form that transformers reads."""
    path = tmp_path_factory.mktemp("tokenizer")
    write_builtin("tiny", path)
    return path


@pytest.fixture(scope="module")
def tiny() -> Tokenizer:
    """The built-in tokenizer, up to 16 ids a text."""
    return load_tokenizer(open_builtin("tiny").tokenizer_source, max_length=16)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What transformers logs; its logger does not propagate by itself."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def read_prompts(shared: Path, every: int) -> list[str]:
    files = sorted((shared / "data" / "prompts").glob("*.txt"))
    return [text for file in files for text in file.read_text(encoding="utf-8").splitlines()[::every]]


def reference(folder: Path, texts: list[str]) -> list[list[int]]:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)(texts, verbose=False)["input_ids"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", FOLDERS)
def test_real_tokenizers_equal_the_plain_auto_tokenizer(name: str, shared: Path) -> None:
    folder = shared / "data" / "tokenizers" / name
    texts = [*read_prompts(shared, every=5), *EDGES, "very long " * 2000]
    tokenizer = load_tokenizer(folder, max_length=64)
    expected = reference(folder, texts)
    found = tokenizer.encode(texts)
    assert tokenizer.eos_id == 1
    assert found.lengths.tolist() == [len(ids) for ids in expected]
    assert found.truncated.tolist() == [len(ids) > 64 for ids in expected]
    for ids, whole in zip(found.ids, expected, strict=True):
        assert ids.tolist() == (whole if len(whole) <= 64 else [*whole[:63], 1])


@pytest.mark.parametrize("name", ["t5", "mt5"])
def test_sentencepiece_equals_a_plain_processor(name: str, shared: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    folder = shared / "data" / "tokenizers" / name
    texts = [*read_prompts(shared, every=20), *EDGES]
    processor: Any = SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    expected = [[*ids, processor.eos_id()] for ids in processor.encode(texts)]
    from_folder = load_tokenizer(folder, max_length=10_000, kind="sentencepiece")
    from_file = load_tokenizer(str(folder / "spiece.model"), max_length=10_000)
    assert [ids.tolist() for ids in from_folder.encode(texts).ids] == expected
    assert [ids.tolist() for ids in from_file.encode(texts).ids] == expected
    assert from_folder.fingerprint == from_file.fingerprint


@pytest.mark.parametrize("name", ["tiny", "tiny-umt5", "tiny-mt5", "tiny-byt5"])
def test_builtin_tokenizers_equal_their_own_folder(name: str, tmp_path: Path) -> None:
    write_builtin(name, tmp_path)
    captions = sample_captions()
    ours = load_tokenizer(open_builtin(name).tokenizer_source, max_length=10_000).encode(captions)
    folder = load_tokenizer(tmp_path, max_length=10_000).encode(captions)
    assert [ids.tolist() for ids in ours.ids] == [ids.tolist() for ids in folder.ids]
    assert [ids.tolist() for ids in ours.ids] == reference(tmp_path, captions)


def test_ids_are_flat_numbers_that_concatenate(tiny: Tokenizer) -> None:
    found = tiny.encode(["a red bird", ""])
    assert all(ids.dtype == np.int32 and ids.ndim == 1 for ids in found.ids)
    assert np.concatenate(found.ids).tolist()[-2:] == [1, 1]
    assert found.lengths.dtype == np.int64
    assert found.truncated.dtype == np.bool_


def test_an_empty_text_is_one_end_token(tiny: Tokenizer, folder: Path) -> None:
    for tokenizer in (tiny, load_tokenizer(folder, max_length=16), load_tokenizer("byt5", max_length=16)):
        assert [ids.tolist() for ids in tokenizer.encode([""]).ids] == [[1]]


def test_no_texts_give_no_ids(tiny: Tokenizer, folder: Path) -> None:
    for tokenizer in (tiny, load_tokenizer(folder, max_length=16)):
        found = tokenizer.encode([])
        assert found.ids == []
        assert len(found.lengths) == len(found.truncated) == 0


@given(text=st.text(max_size=40), max_length=st.integers(1, 12))
def test_cut_ids_are_a_prefix_and_the_end_token(text: str, max_length: int) -> None:
    whole = load_tokenizer("byt5", max_length=1000).encode([text]).ids[0].tolist()
    found = load_tokenizer("byt5", max_length=max_length).encode([text])
    ids = found.ids[0].tolist()
    assert len(ids) == min(len(whole), max_length)
    assert ids[:-1] == whole[: len(ids) - 1]
    assert ids[-1] == 1
    assert bool(found.truncated[0]) == (len(whole) > max_length)
    assert found.lengths[0] == len(whole)


@given(text=st.text(max_size=40), max_length=st.integers(1, 12))
def test_ids_cut_at_the_start_are_the_last_ones(text: str, max_length: int) -> None:
    whole = load_tokenizer("byt5", max_length=1000).encode([text]).ids[0].tolist()
    found = load_tokenizer("byt5", max_length=max_length).encode([text], cut="start")
    assert found.ids[0].tolist() == whole[-max_length:]
    assert bool(found.truncated[0]) == (len(whole) > max_length)
    assert found.lengths[0] == len(whole)


@given(text=st.text(max_size=40))
def test_bytes_decode_to_their_text(text: str) -> None:
    tokenizer = load_tokenizer("byt5", max_length=1000)
    assert tokenizer.decode(tokenizer.encode([text]).ids[0]) == text


def test_decoding_leaves_the_end_token_out(tiny: Tokenizer, folder: Path) -> None:
    for tokenizer in (tiny, load_tokenizer(folder, max_length=16)):
        assert tokenizer.decode(tokenizer.encode(["a red bird"]).ids[0]) == "a red bird"


def test_a_thousand_texts_are_one_call(folder: Path) -> None:
    tokenizer = load_tokenizer(folder, max_length=16)
    calls: list[int] = []

    def count(texts: list[str]) -> list[list[int]]:
        calls.append(len(texts))
        return [[1] for _ in texts]

    counting = replace(tokenizer, to_ids=count)
    assert len(counting.encode(["a"] * 1000).ids) == 1000
    assert calls == [1000]


def test_a_text_beyond_the_models_length_is_not_warned_of(log: pytest.LogCaptureFixture, shared: Path) -> None:
    tokenizer = load_tokenizer(shared / "data" / "tokenizers" / "mt5", max_length=64)
    tokenizer.encode(["very long " * 1000])
    assert "longer than" not in log.text


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        (["a", None], r"texts\[1\]: expected a string, got NoneType"),
        ([b"a"], r"texts\[0\]: expected a string, got bytes"),
        (
            ["a", "b", "x\ud800y"],
            r"texts\[2\]: expected Unicode text, got a lone surrogate '\\ud800' at character 1",
        ),
        ("a red bird", "expected a list of strings, got one string"),
    ],
)
def test_what_is_not_text_is_refused_by_index(texts: Any, problem: str, tiny: Tokenizer) -> None:
    with pytest.raises(InputError, match=problem):
        tiny.encode(texts)


def test_a_checkpoint_without_tokenizer_names_the_option() -> None:
    with pytest.raises(CheckpointError, match=r"no tokenizer files.*tokenizer="):
        load_tokenizer(None, max_length=16)


def test_a_folder_without_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{tmp_path.name}.*tokenizer="):
        load_tokenizer(tmp_path, max_length=16)


def test_a_folder_that_transformers_cannot_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=f"{tmp_path.name}: transformers finds no tokenizer"):
        load_tokenizer(tmp_path, max_length=16)


def test_sentencepiece_needs_its_model(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "tokenizer.json", tmp_path)
    with pytest.raises(CheckpointError, match=r"expected a spiece\.model"):
        load_tokenizer(tmp_path, max_length=16, kind="sentencepiece")


def test_bytes_that_are_no_sentencepiece_model_are_refused() -> None:
    with pytest.raises(CheckpointError, match="sentencepiece model of 4 bytes"):
        load_tokenizer(b"nope", max_length=16)


def test_a_tokenizer_without_end_token_is_refused(folder: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers.processors import TemplateProcessing

    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(CheckpointError, match="expected a tokenizer that adds an end token"):
        load_tokenizer(tmp_path, max_length=16)


@pytest.mark.parametrize("max_length", [0, -1])
def test_a_length_below_one_is_refused(max_length: int) -> None:
    with pytest.raises(ConfigError, match=f"max_length: expected at least 1, got {max_length}"):
        load_tokenizer("byt5", max_length=max_length)


def test_the_fingerprint_follows_the_files(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    first = load_tokenizer(folder, max_length=16).fingerprint
    assert load_tokenizer(tmp_path / "copy", max_length=32).fingerprint == first
    (tmp_path / "copy" / "added_tokens.json").write_text("{}")
    assert load_tokenizer(tmp_path / "copy", max_length=16).fingerprint != first
