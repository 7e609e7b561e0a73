"""ai-toolkit's cache: names and bytes as the trainer makes them, and its files read as it reads them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from t5enc.errors import ConfigError, OutputError
from t5enc.trainers import build_format, export_embeddings
from t5enc.trainers.format import Caption
from t5enc.trainers.formats.ai_toolkit import AiToolkit
from tests.t5enc.trainers.nasty import make_captions, make_paths
from tests.t5enc.trainers.outputs import DIM, write_output

WAN = {"arch": "wan21"}
# What the trainer encodes as it stands, after Wan's cleaning.
CAPTIONS = ["a fox", "red, green", " spaced \n", "", "ünï ⟨🦊⟩", 'quo"te \\ back', "tab\tand\x01control\x7f"]


def locate_as_trainer(path: str, caption: str, arch: str) -> str:
    """Where the trainer looks for the embedding of an image with this caption."""
    facts = {"caption": caption, "text_embedding_space_version": arch, "text_embedding_version": 1}
    digest = hashlib.md5(json.dumps(facts, sort_keys=True).encode("utf-8")).digest()
    ending = base64.urlsafe_b64encode(digest).decode("ascii").replace("=", "")
    stem = os.path.splitext(os.path.basename(path))[0]
    return os.path.join(os.path.dirname(path), "_t_e_cache", f"{stem}_{ending}.safetensors")


def caption_as_trainer(caption: str, trigger: str | None = None) -> str:
    """The trainer's caption: tags joined again, the word of the trigger put in, and in front where it is missing."""
    joined = ", ".join(caption.split(","))
    for placeholder in ("[name]", "[trigger]"):
        joined = joined.replace(placeholder, trigger or "")
    return f"{trigger} {joined}" if trigger and joined.count(trigger) == 0 else joined


@pytest.mark.parametrize("trigger", ["", "sks"])
@pytest.mark.parametrize("arch", ["wan21", "wan22_14b", "wan22_5b"])
def test_names_of_nasty_captions_and_paths_are_the_trainers(trigger: str, arch: str) -> None:
    made = AiToolkit(arch=arch, trigger=trigger)
    for caption, path in zip(make_captions(), make_paths(), strict=True):
        found = made.name_file(Caption(row=0, text=caption, path=path, num_tokens=1))
        assert found == locate_as_trainer(path, caption_as_trainer(caption, trigger), arch)


def test_an_older_trainer_strips_tags() -> None:
    made = AiToolkit(arch="wan21", strip_tags=True)
    assert made.make_text(" a ,b,, c\n") == "a, b, c"
    assert AiToolkit(arch="wan21").make_text("a, b") == "a,  b"


def test_files_are_the_librarys_bytes_of_padded_rows(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", CAPTIONS)
    report = export_embeddings("ai-toolkit", made.folder, tmp_path / "images", options=WAN)
    assert report.files == len(CAPTIONS)
    for index, caption in enumerate(CAPTIONS):
        path = tmp_path / "images" / locate_as_trainer(made.paths[index], caption_as_trainer(caption), "wan21")
        padded = torch.zeros(1, 512, DIM, dtype=torch.bfloat16)
        padded[0, : len(made.embeddings[index])] = made.embeddings[index]
        assert path.read_bytes() == save({"text_embed": padded})


def test_nasty_captions_that_the_job_encoded_as_the_trainer_does_have_its_names_and_bytes(tmp_path: Path) -> None:
    raw, paths = make_captions(), make_paths()
    encoded = [caption_as_trainer(caption, "sks") for caption in raw]
    made = write_output(tmp_path / "out", encoded, paths, more={"raw": raw}, rows_per_shard=300)
    options = {**WAN, "trigger": "sks"}
    export_embeddings("ai-toolkit", made.folder, tmp_path / "images", options=options, caption_column="raw")
    for index, (path, caption) in enumerate(zip(paths, encoded, strict=True)):
        padded = torch.zeros(1, 512, DIM, dtype=torch.bfloat16)
        padded[0, : len(made.embeddings[index])] = made.embeddings[index]
        found = (tmp_path / "images" / locate_as_trainer(path, caption, "wan21")).read_bytes()
        assert found == save({"text_embed": padded})


def test_blanks_are_the_rows_of_no_caption_for_each_image(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", CAPTIONS)
    export_embeddings("ai-toolkit", made.folder, tmp_path / "images", options=WAN)
    options = {**WAN, "write": "blanks"}
    assert export_embeddings("ai-toolkit", made.folder, tmp_path / "images", options=options).files == 6
    assert export_embeddings("ai-toolkit", made.folder, tmp_path / "images", options=WAN).whole == len(CAPTIONS)
    for path, caption in zip(made.paths, CAPTIONS, strict=True):
        if not caption:
            continue
        found = load_file(tmp_path / "images" / locate_as_trainer(path, "", "wan21"))["text_embed"]
        assert torch.equal(found[0, :2], made.null)
        assert not found[0, 2:].any()


def test_captions_that_the_trainer_would_change_are_refused(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", ["red,green", "red, green"])
    with pytest.raises(OutputError, match="the trainer encodes 'red, green', the job encoded 'red,green'"):
        export_embeddings("ai-toolkit", made.folder, tmp_path / "images", options=WAN)
    made = write_output(tmp_path / "other", ["a fox"])
    with pytest.raises(OutputError, match="the trainer encodes 'sks a fox'"):
        export_embeddings("ai-toolkit", made.folder, tmp_path / "images", options={**WAN, "trigger": "sks"})


def test_the_column_that_was_encoded_may_be_another_than_the_captions(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", ["sks red, green"], more={"raw": ["red,green"]})
    options = {**WAN, "trigger": "sks"}
    export_embeddings("ai-toolkit", made.folder, tmp_path / "images", options=options, caption_column="raw")
    assert (tmp_path / "images" / locate_as_trainer(made.paths[0], "sks red, green", "wan21")).exists()


def test_absolute_paths_are_taken_below_the_root(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", ["a fox"], ["/data/set/x/a.jpg"])
    with pytest.raises(OutputError, match="it leaves the folder"):
        export_embeddings("ai-toolkit", made.folder, tmp_path / "images", options=WAN)
    options = {**WAN, "image_root": "/data/set/"}
    export_embeddings("ai-toolkit", made.folder, tmp_path / "images", options=options)
    assert (tmp_path / "images" / locate_as_trainer("x/a.jpg", "a fox", "wan21")).exists()


def test_chroma_has_all_rows_and_the_mask_of_the_tokens(tmp_path: Path, tokenizer: Any) -> None:
    captions = ["a fox", "red, green", ""]
    made = write_output(
        tmp_path / "out", captions, recipe="flux", lengths=[512] * 3, identity={"tokenizer": tokenizer.fingerprint}
    )
    options = {"arch": "chroma", "tokenizer": str(tokenizer.folder)}
    export_embeddings("ai-toolkit", made.folder, tmp_path / "images", options=options)
    for index, caption in enumerate(captions):
        path = tmp_path / "images" / locate_as_trainer(made.paths[index], caption_as_trainer(caption), "chroma")
        mask = (torch.arange(512) < tokenizer.count(caption)).long()[None]
        expected = save({"text_embed": made.embeddings[index][None].contiguous(), "attention_mask": mask})
        assert path.read_bytes() == expected


def test_chroma_without_its_tokenizer_or_with_another_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="tokenizer"):
        build_format("ai-toolkit", {"arch": "chroma"})
    made = write_output(tmp_path / "out", ["a"], recipe="flux", lengths=[512], identity={"tokenizer": "other"})
    options = {"arch": "chroma", "tokenizer": str(tokenizer.folder)}
    with pytest.raises(ConfigError, match="expected that of the job"):
        export_embeddings("ai-toolkit", made.folder, tmp_path / "images", options=options)


def test_chromas_own_recipe_is_not_this_trainers(tmp_path: Path, tokenizer: Any) -> None:
    made = write_output(tmp_path / "out", ["a"], recipe="chroma", identity={"tokenizer": tokenizer.fingerprint})
    options = {"arch": "chroma", "tokenizer": str(tokenizer.folder)}
    with pytest.raises(OutputError, match=r"expected recipe flux at 512, got chroma at 512 \(attends_pads"):
        export_embeddings("ai-toolkit", made.folder, tmp_path / "images", options=options)


def test_options_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs arch"):
        build_format("ai-toolkit")
    with pytest.raises(ConfigError, match="arch: expected one of wan21"):
        build_format("ai-toolkit", {"arch": "flux"})
    with pytest.raises(ConfigError, match="write: blanks"):
        build_format("ai-toolkit", {"arch": "wan21", "write": "blanks", "trigger": "sks"})
