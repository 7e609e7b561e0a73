"""Sentinels in sentencepiece models: T5's ids, and the ids of transformers for everything else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor
from transformers import AutoTokenizer, T5Tokenizer

from t5enc.checkpoint.builtin import ASSETS, sample_captions, write_builtin
from t5enc.errors import CheckpointError, ConfigError, OutputError
from t5enc.text.sentinels import add_sentinels

SENTENCE = "Today is a fine <extra_id_0> on which to walk my <extra_id_1> in the park."
SPACE = "▁"


def open_model(path: Path) -> Any:
    processor: Any = SentencePieceProcessor()
    processor.Load(str(path))
    return processor


def ids_of(path: Path, texts: list[str]) -> list[list[int]]:
    return open_model(path).encode(texts, add_eos=True)  # type: ignore[no-any-return]


def read_prompts(shared: Path, count: int = 150) -> list[str]:
    """Some of every file, several languages among them."""
    files = sorted((shared / "data" / "prompts").glob("*.txt"))
    return [line for file in files for line in file.read_text(encoding="utf-8").splitlines()[:count] if line.strip()]


def edit_json(path: Path, **changed: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The built-in tokenizer as transformers saves it, with a hundred sentinels: no spiece.model."""
    write_builtin("builtin:tiny", tmp_path / "source")
    (tmp_path / "source" / "tokenizer.json").unlink()
    (tmp_path / "source" / "tokenizer_config.json").write_text(json.dumps({"extra_ids": 100}))
    T5Tokenizer.from_pretrained(tmp_path / "source", extra_ids=100).save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "spiece.model").exists()
    return tmp_path / "saved"


@pytest.fixture
def real(shared: Path) -> Path:
    return shared / "data" / "tokenizers" / "t5"


def test_the_real_spiece_model_gets_the_ids_that_t5_was_trained_with(real: Path, tmp_path: Path) -> None:
    added = add_sentinels(real, tmp_path / "out.model")
    assert (added.count, added.first_id, added.pieces) == (100, 32099, 32100)
    model = open_model(tmp_path / "out.model")
    plain = open_model(real / "spiece.model")
    assert [model.piece_to_id(f"<extra_id_{number}>") for number in (0, 1, 99)] == [32099, 32098, 32000]
    assert [model.id_to_piece(index) for index in range(32000)] == [plain.id_to_piece(index) for index in range(32000)]
    assert model.get_score(32050) == 0


def test_transformers_strips_the_space_before_a_sentinel_and_sentencepiece_keeps_it(real: Path, tmp_path: Path) -> None:
    add_sentinels(real, tmp_path / "out.model")
    theirs = AutoTokenizer.from_pretrained(real)(SENTENCE).input_ids
    assert theirs == [1960, 19, 3, 9, 1399, 32099, 30, 84, 12, 1482, 82, 32098, 16, 8, 2447, 5, 1]
    (ours,) = ids_of(tmp_path / "out.model", [SENTENCE])
    assert ours == [1960, 19, 3, 9, 1399, 3, 32099, 30, 84, 12, 1482, 82, 3, 32098, 16, 8, 2447, 5, 1]
    assert ids_of(tmp_path / "out.model", [SENTENCE.replace(" <", "<")]) == [theirs]


@pytest.mark.parametrize("has_spiece", [True, False])
def test_real_prompts_get_the_ids_that_transformers_gives(
    has_spiece: bool, real: Path, shared: Path, tmp_path: Path
) -> None:
    if has_spiece:
        folder = real
    else:
        folder = tmp_path / "saved"
        AutoTokenizer.from_pretrained(real).save_pretrained(folder)
    add_sentinels(folder, tmp_path / "out.model")
    prompts = read_prompts(shared)
    assert ids_of(tmp_path / "out.model", prompts) == AutoTokenizer.from_pretrained(folder)(prompts).input_ids


def test_a_tokenizer_json_alone_is_rebuilt_to_the_pieces_and_scores_of_the_spiece_model(
    real: Path, tmp_path: Path
) -> None:
    for folder, name in (("five", None), ("hub", "tokenizer.json")):
        if name is None:
            AutoTokenizer.from_pretrained(real).save_pretrained(tmp_path / folder)
        else:
            (tmp_path / folder).mkdir()
            shutil.copyfile(real / name, tmp_path / folder / name)
        assert add_sentinels(tmp_path / folder, tmp_path / f"{folder}.model").count == 100
    add_sentinels(real, tmp_path / "spiece.model")
    models = [open_model(tmp_path / f"{name}.model") for name in ("five", "hub", "spiece")]
    pieces = [
        [
            (model.id_to_piece(index), model.get_score(index), model.is_control(index), model.is_unknown(index))
            for index in range(model.get_piece_size())
        ]
        for model in models
    ]
    assert pieces[0] == pieces[1] == pieces[2]
    controls = [(model.pad_id(), model.eos_id(), model.unk_id(), model.bos_id()) for model in models]
    assert controls == [(0, 1, 2, -1)] * 3


def test_the_built_in_tokenizer_saved_by_transformers_is_rebuilt(saved: Path, tmp_path: Path) -> None:
    added = add_sentinels(saved, tmp_path / "out.model")
    assert (added.count, added.first_id) == (100, 1099)
    theirs = AutoTokenizer.from_pretrained(saved)
    captions = [
        *sample_captions(),
        "",
        " ",
        "  two  spaces ",
        "tab\tand\nline",
        "ﬁ ½ é",
        "𝄞 unknown",
        "no-break\u00a0space",
    ]
    assert ids_of(tmp_path / "out.model", captions) == theirs(captions).input_ids
    marked = [f"{caption}<extra_id_{number}>" for number, caption in enumerate(captions[:100])]
    assert ids_of(tmp_path / "out.model", marked) == theirs(marked).input_ids


def test_the_lone_space_is_there_with_the_built_in_tokenizer_too(saved: Path, tmp_path: Path) -> None:
    add_sentinels(saved, tmp_path / "out.model")
    model = open_model(tmp_path / "out.model")
    assert model.encode("a <extra_id_7> a", out_type=str) == ["▁a", SPACE, "<extra_id_7>", "▁a"]
    assert AutoTokenizer.from_pretrained(saved).tokenize("a <extra_id_7> a") == ["▁a", "<extra_id_7>", "▁a"]


def test_without_sentinels_a_count_is_needed(tmp_path: Path) -> None:
    write_builtin("builtin:tiny", tmp_path / "source")
    AutoTokenizer.from_pretrained(tmp_path / "source").save_pretrained(tmp_path / "saved")
    with pytest.raises(ConfigError, match="count: expected a number"):
        add_sentinels(tmp_path / "saved", tmp_path / "out.model")
    with pytest.raises(ConfigError, match="count: expected a number"):
        add_sentinels(ASSETS / "tiny.model", tmp_path / "out.model")
    for source in (tmp_path / "saved", ASSETS / "tiny.model"):
        added = add_sentinels(source, tmp_path / "out.model", count=3, overwrite=True)
        assert (added.count, added.first_id) == (3, 1002)
        captions = sample_captions()
        assert ids_of(tmp_path / "out.model", captions) == ids_of(ASSETS / "tiny.model", captions)


def test_a_count_other_than_the_tokenizers_is_refused(saved: Path, real: Path, tmp_path: Path) -> None:
    for folder in (saved, real):
        with pytest.raises(ConfigError, match="100"):
            add_sentinels(folder, tmp_path / "out.model", count=50)


def test_the_list_of_older_versions_is_read_and_a_gap_in_it_refused(tmp_path: Path) -> None:
    shutil.copyfile(ASSETS / "tiny.model", tmp_path / "spiece.model")
    names: list[Any] = [{"content": "<extra_id_1>"}, "<extra_id_0>", "<other>", "<extra_id_2>"]
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(json.dumps({"additional_special_tokens": names}))
    assert add_sentinels(tmp_path, tmp_path / "out.model").count == 3
    edit_json(settings, additional_special_tokens=names[1:])
    with pytest.raises(CheckpointError, match=r"numbered from 0 on, got \[0, 2\]"):
        add_sentinels(tmp_path, tmp_path / "other.model")
    settings.write_text(json.dumps({"extra_ids": 5}))
    assert add_sentinels(tmp_path, tmp_path / "out.model", overwrite=True).count == 5


def test_a_tokenizer_that_numbers_them_otherwise_is_refused(tmp_path: Path) -> None:
    shutil.copyfile(ASSETS / "tiny.model", tmp_path / "spiece.model")
    described = {"1000": {"content": "<extra_id_0>"}, "1001": {"content": "<extra_id_1>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"extra_ids": 2, "added_tokens_decoder": described}))
    with pytest.raises(CheckpointError, match="<extra_id_1>: expected id 1000, got 1001"):
        add_sentinels(tmp_path, tmp_path / "out.model")


def test_adding_twice_changes_nothing(real: Path, tmp_path: Path) -> None:
    add_sentinels(real, tmp_path / "once.model")
    assert add_sentinels(tmp_path / "once.model", tmp_path / "twice.model").count == 100
    assert (tmp_path / "twice.model").read_bytes() == (tmp_path / "once.model").read_bytes()


def test_mt5_has_sentinels_of_its_own_which_are_left_alone(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="▁<extra_id_99> and 99 more"):
        add_sentinels(shared / "data" / "tokenizers" / "mt5", tmp_path / "out.model")


def test_a_tokenizer_json_that_sentencepiece_cannot_equal_is_refused(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="normalizer: expected 'Precompiled'"):
        add_sentinels(shared / "data" / "tokenizers" / "umt5", tmp_path / "out.model")


@pytest.mark.parametrize(
    ("part", "content", "message"),
    [
        ("model", {"type": "BPE"}, "model.type: expected 'Unigram'"),
        ("model", {"type": "Unigram", "byte_fallback": True}, "model.byte_fallback: expected False"),
        ("normalizer", {"type": "Lowercase"}, "normalizer: expected 'Precompiled'"),
        ("pre_tokenizer", {"type": "Whitespace"}, "pre_tokenizer: expected"),
        ("pre_tokenizer", {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}, "prepend_scheme"),
    ],
)
def test_what_sentencepiece_has_not_is_named(
    part: str, content: dict[str, Any], message: str, saved: Path, tmp_path: Path
) -> None:
    edit_json(saved / "tokenizer.json", **{part: content})
    with pytest.raises(CheckpointError, match=message):
        add_sentinels(saved, tmp_path / "out.model")
    assert not (tmp_path / "out.model").exists()


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected a \.model file, or a folder"):
        add_sentinels(tmp_path, tmp_path / "out.model")
    (tmp_path / "a.model").write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match="expected a sentencepiece model"):
        add_sentinels(tmp_path / "a.model", tmp_path / "out.model", count=1)


def test_the_command_writes_a_file_and_replaces_none(saved: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "t5enc", "add-sentinels", str(saved), str(tmp_path / "out.model")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1,100 pieces; <extra_id_0> is 1099, 100 in all" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "expected no such file" in again.stderr
    with pytest.raises(OutputError, match="no such file"):
        add_sentinels(saved, tmp_path / "out.model")
