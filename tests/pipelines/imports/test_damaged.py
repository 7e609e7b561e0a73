"""Caches with files that are torn or another's: each is a row with the reason, and ends no import."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from pipelines.imports.cache import read_captions
from pipelines.imports.importing import import_cache
from pipelines.imports.readers import open_reader
from t5enc import load_embeddings
from t5enc.output import open_output
from t5enc.trainers import export_embeddings
from tests.t5enc.trainers.outputs import Written, write_output

CAPTIONS = ["", "a fox", "an owl", "red"]


@pytest.fixture
def made(tmp_path: Path) -> Written:
    return write_output(tmp_path / "out", CAPTIONS)


def import_errors(format_: str, cache: Path, output: Path, *given: Any) -> list[str]:
    """Import, and the reasons of rows without an embedding."""
    import_cache(open_reader(format_, *given), cache, str(output))
    return [error for error in load_embeddings(output)[0]["text_embedding_error"].to_pylist() if error]


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:20] + bytes(byte ^ 255 for byte in content[20:60]) + content[60:])


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize("tensors", [{"varlen_t5_bfloat16": torch.zeros(8).bfloat16()}, {"other": torch.zeros(2, 8)}])
def test_musubis(tmp_path: Path, made: Written, number: int, tensors: dict[str, torch.Tensor]) -> None:
    cache = tmp_path / "cache"
    export_embeddings("musubi", made.folder, cache)
    save_file(tensors, cache / f"{number}_wan_te.safetensors", {"caption1": CAPTIONS[number]})
    (error,) = import_errors("musubi", cache, tmp_path / "in")
    assert "expected" in error
    conditioning = open_output(tmp_path / "in").conditioning
    assert conditioning is not None
    assert (conditioning.null is None) == (number == 0)


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: torch.save([1], path),
        lambda path: torch.save({"other": 1}, path),
        lambda path: torch.save({"prompt_embeds": torch.zeros(3)}, path),
        flip,
    ],
)
def test_simple_tuners(tmp_path: Path, made: Written, number: int, damage: Callable[[Path], Any]) -> None:
    cache = tmp_path / "cache"
    export_embeddings("simpletuner", made.folder, cache, options={"family": "wan", "compress": "true"})
    damage(sorted(cache.glob("*.pt"))[number])
    assert len(import_errors("simpletuner", cache, tmp_path / "in", {"family": "wan"}, CAPTIONS)) == 1


@pytest.mark.parametrize(("data", "shape"), [(b"123", [1, 1]), (b"", [0, 8]), (b"", [1, 0]), (b"1234", [-1, -1])])
def test_fastvideos(tmp_path: Path, data: bytes, shape: list[int]) -> None:
    cache = tmp_path / "cache"
    export_embeddings("fastvideo", write_output(tmp_path / "plain", CAPTIONS, fields={"clean": "none"}).folder, cache)
    numbers = pa.array([data], pa.binary())
    columns = {"id": ["a"], "caption": ["a"], "text_embedding_bytes": numbers, "text_embedding_shape": [shape]}
    pq.write_table(pa.table({**columns, "text_embedding_dtype": ["float32"]}), cache / "torn.parquet")
    (error,) = import_errors("fastvideo", cache, tmp_path / "in")
    assert "expected numbers of" in error


def test_a_caption_that_is_no_text_is_none(tmp_path: Path, made: Written) -> None:
    images = tmp_path / "set"
    export_embeddings("ai-toolkit", made.folder, images, options={"arch": "wan21"})
    for path, caption in zip(made.paths, made.captions, strict=True):
        (images / path).with_suffix(".txt").write_text(f"{caption}\n", encoding="utf-8")
    (images / made.paths[3]).with_suffix(".txt").write_bytes(b"\xff")
    done = import_cache(open_reader("ai-toolkit", {"arch": "wan21"}), images, str(tmp_path / "in"))
    assert (done.rows, dict(done.left_out)) == (3, {"not of the caption in the .txt beside its image": 1})


def test_a_caption_that_the_trainer_did_not_strip_is_found_as_well(tmp_path: Path) -> None:
    made = write_output(tmp_path / "line", ["a fox\n"])
    export_embeddings("ai-toolkit", made.folder, tmp_path / "set", options={"arch": "wan21"})
    (tmp_path / "set" / made.paths[0]).with_suffix(".txt").write_text("a fox\n", encoding="utf-8")
    assert import_errors("ai-toolkit", tmp_path / "set", tmp_path / "in", {"arch": "wan21"}) == []


def test_captions_of_a_file_of_windows_are_lines_as_well(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_bytes("\ufeffa fox\r\nan owl\r\n".encode())
    assert list(read_captions(tmp_path / "captions.txt", "caption"))[:2] == ["a fox", "an owl"]


def test_an_output_inside_the_cache_is_no_part_of_it(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    export_embeddings("fastvideo", write_output(tmp_path / "plain", CAPTIONS, fields={"clean": "none"}).folder, cache)
    done = [import_cache(open_reader("fastvideo"), cache, str(cache / "in")) for _ in range(2)]
    assert [found.rows for found in done] == [3, 3]
