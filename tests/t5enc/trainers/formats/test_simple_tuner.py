"""SimpleTuner's cache: names and bytes as the trainer makes them, and its files read as it reads them."""

from __future__ import annotations

import gzip
import hashlib
import io
from pathlib import Path

import pytest
import torch

from t5enc.errors import ConfigError, OutputError
from t5enc.trainers import build_format, export_embeddings
from t5enc.trainers.format import Caption
from t5enc.trainers.formats import simple_tuner
from t5enc.trainers.formats.simple_tuner import SimpleTuner
from tests.t5enc.trainers.nasty import make_captions
from tests.t5enc.trainers.outputs import DIM, Written, write_output

CAPTIONS = ["a fox", "red,green", " spaced \n", "ünï ⟨🦊⟩", 'quo"te \\ back', "a fox"]
# Family -> recipe, its length here, and the key, shape and dtype of its mask.
FAMILIES = {
    "wan": ("wan", 512, None),
    "pixart_sigma": ("pixart_sigma", 300, ("attention_mask", (300,), torch.int64)),
    "chroma": ("chroma", 512, ("attention_masks", (1, 512), torch.bool)),
    "ltxvideo": ("ltx", 128, ("attention_masks", (1, 128), torch.bool)),
    "auraflow": ("aura_flow", 768, ("prompt_attention_mask", (1, 768), torch.int64)),
}


def name_as_trainer(caption: str, family: str) -> str:
    digest = hashlib.md5()
    digest.update(str(caption).encode())
    return digest.hexdigest() + f"-{family}" + ".pt"


def save_as_trainer(tensors: dict[str, torch.Tensor], path: Path) -> bytes:
    """The trainer gives torch.save an open file, not a path."""
    with path.open("wb") as file:
        torch.save(tensors, file)
    return path.read_bytes()


def make_tensors(rows: torch.Tensor, family: str) -> dict[str, torch.Tensor]:
    """What the trainer keeps of a caption's rows, with zeros for pads."""
    _, length, mask = FAMILIES[family]
    embeds = torch.zeros(1, length, DIM, dtype=torch.bfloat16)
    embeds[0, : len(rows)] = rows
    if mask is None:
        return {"prompt_embeds": embeds}
    key, shape, dtype = mask
    ones = torch.zeros(shape, dtype=dtype)
    ones[..., : len(rows)] = 1
    return {"prompt_embeds": embeds, key: ones}


def write_family(folder: Path, family: str) -> Written:
    recipe, length, _ = FAMILIES[family]
    return write_output(folder, CAPTIONS, recipe=recipe, max_length=length)


def find_options(family: str) -> dict[str, str]:
    return {"family": family} | ({"text_path": "diffusers"} if family == "chroma" else {})


def test_names_of_nasty_captions_are_the_trainers() -> None:
    for family in FAMILIES:
        made = SimpleTuner(**find_options(family))
        for caption in make_captions():
            found = made.name_file(Caption(row=0, text=caption, path="", num_tokens=1))
            assert found == name_as_trainer(caption, family)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_files_are_torchs_own_bytes(tmp_path: Path, family: str) -> None:
    made = write_family(tmp_path / "out", family)
    report = export_embeddings("simpletuner", made.folder, tmp_path / "cache", options=find_options(family))
    assert (report.files, report.shared) == (6, 1)
    rows = {caption: made.embeddings[index] for index, caption in reversed(list(enumerate(CAPTIONS)))}
    for caption, values in {**rows, "": made.null}.items():
        path = tmp_path / "cache" / name_as_trainer(caption, family)
        assert path.read_bytes() == save_as_trainer(make_tensors(values, family), tmp_path / "theirs")
        loaded = torch.load(path, weights_only=True)
        assert torch.equal(loaded["prompt_embeds"][0, : len(values)], values)


def test_nasty_captions_have_the_trainers_names_and_bytes(tmp_path: Path) -> None:
    captions = make_captions()
    made = write_output(tmp_path / "out", captions, recipe="ltx", rows_per_shard=300)
    options = {"family": "ltxvideo"}
    report = export_embeddings("simpletuner", made.folder, tmp_path / "cache", options=options)
    assert (report.files, report.shared) == (len({*captions, ""}) + 1, len(captions) - len(set(captions)))
    rows = {caption: made.embeddings[index] for index, caption in reversed(list(enumerate(captions)))}
    for caption, values in rows.items():
        expected = save_as_trainer(make_tensors(values, "ltxvideo"), tmp_path / "theirs")
        assert (tmp_path / "cache" / name_as_trainer(caption, "ltxvideo")).read_bytes() == expected


def test_a_second_run_finds_all_files_whole(tmp_path: Path) -> None:
    made = write_family(tmp_path / "out", "pixart_sigma")
    options = {"family": "pixart_sigma"}
    export_embeddings("simpletuner", made.folder, tmp_path / "cache", options=options)
    assert export_embeddings("simpletuner", made.folder, tmp_path / "cache", options=options).files == 0


def test_a_pytorch_with_files_of_its_own_kind_saves_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simple_tuner, "_open_layout", lambda *_: None)
    simple_tuner._measure.cache_clear()
    made = write_family(tmp_path / "out", "auraflow")
    export_embeddings("simpletuner", made.folder, tmp_path / "cache", options={"family": "auraflow"})
    expected = save_as_trainer(make_tensors(made.embeddings[0], "auraflow"), tmp_path / "theirs")
    assert (tmp_path / "cache" / name_as_trainer("a fox", "auraflow")).read_bytes() == expected


def test_compressed_files_hold_the_same(tmp_path: Path) -> None:
    made = write_family(tmp_path / "out", "wan")
    options = {"family": "wan", "compress": "true"}
    export_embeddings("simpletuner", made.folder, tmp_path / "cache", options=options)
    found = gzip.decompress((tmp_path / "cache" / name_as_trainer("a fox", "wan")).read_bytes())
    loaded = torch.load(io.BytesIO(found), weights_only=True)
    assert torch.equal(loaded["prompt_embeds"], make_tensors(made.embeddings[0], "wan")["prompt_embeds"])


def test_wans_negative_is_written_on_demand(tmp_path: Path) -> None:
    made = write_family(tmp_path / "out", "wan")
    options = {"family": "wan", "negative": "true"}
    export_embeddings("simpletuner", made.folder, tmp_path / "cache", options=options)
    tensors = make_tensors(made.embeddings[0], "wan")
    tensors["attention_masks"] = make_tensors(made.null, "wan")["prompt_embeds"]
    expected = save_as_trainer(tensors, tmp_path / "theirs")
    assert (tmp_path / "cache" / name_as_trainer("a fox", "wan")).read_bytes() == expected


def test_auraflow_has_the_trainers_lengths_alone(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", CAPTIONS, recipe="aura_flow")
    with pytest.raises(
        OutputError, match="expected recipe aura_flow at 120 or recipe aura_flow at 768, got aura_flow at 256"
    ):
        export_embeddings("simpletuner", made.folder, tmp_path / "cache", options={"family": "auraflow"})


def test_chroma_says_that_this_trainer_reads_it_otherwise() -> None:
    with pytest.raises(ConfigError, match="attends to the first pad"):
        build_format("simpletuner", {"family": "chroma"})


def test_options_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="family: expected one of wan, pixart_sigma"):
        build_format("simpletuner", {"family": "flux"})
    with pytest.raises(ConfigError, match="negative: expected the family wan"):
        build_format("simpletuner", {"family": "auraflow", "negative": "true"})
    with pytest.raises(ConfigError, match="compress: expected bool, got 'yes'"):
        build_format("simpletuner", {"family": "wan", "compress": "yes"})
