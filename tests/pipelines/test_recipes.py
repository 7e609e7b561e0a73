"""A job under a recipe: what its pipeline keeps is stored, and its tensors come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines import EncodeJob, encode_parquet
from t5enc import TextEncoder, load_embeddings
from t5enc.checkpoint.builtin import sample_captions
from t5enc.errors import JobMismatchError, OutputError
from t5enc.output import open_output
from t5enc.storage.null_prompt import NULL
from tests.pipelines.conftest import WriteCaptions

pytestmark = pytest.mark.usefixtures("in_process")
MODELS = {
    "flux": "builtin:tiny",
    "chroma": "builtin:tiny",
    "pixart_alpha": "builtin:tiny",
    "kandinsky3": "builtin:tiny",
    "cogview3": "builtin:tiny",
    "wan": "builtin:tiny-umt5",
    "hunyuan_image": "builtin:tiny-byt5",
}
CAPTIONS = [*sample_captions()[:9], 'A sign that reads "open" beside a door', "", "a" * 3000]


def job(inputs: Path, output: Path, recipe: str, **options: Any) -> EncodeJob:
    usual = {"inputs": [str(inputs)], "output": str(output), "model": MODELS[recipe], "storage_dtype": "float32"}
    return EncodeJob.from_mapping(usual | {"recipe": recipe, "rows_per_shard": 5} | options)


def assert_equal(found: torch.Tensor | None, expected: torch.Tensor | None) -> None:
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("recipe", MODELS)
def test_the_output_gives_the_tensors_that_the_library_gives(
    recipe: str, write_captions: WriteCaptions, tmp_path: Path
) -> None:
    encode_parquet(job(write_captions(CAPTIONS), tmp_path / "out", recipe))
    found = load_embeddings(tmp_path / "out")[1].to_pipeline()
    expected = TextEncoder.from_pretrained(MODELS[recipe], recipe=recipe).encode(CAPTIONS).to_pipeline()
    for name in ("prompt_embeds", "prompt_mask", "null_embeds", "null_mask"):
        assert_equal(getattr(found, name), getattr(expected, name))


def test_only_the_rows_that_the_pipeline_keeps_are_stored(write_captions: WriteCaptions, tmp_path: Path) -> None:
    lengths = {}
    for recipe in ("flux", "chroma", "pixart_alpha"):
        encode_parquet(job(write_captions(CAPTIONS[:3], folder=recipe), tmp_path / f"{recipe}_out", recipe))
        lengths[recipe] = load_embeddings(tmp_path / f"{recipe}_out")[1].lengths
    real = TextEncoder.from_pretrained("builtin:tiny").encode(CAPTIONS[:3]).lengths
    assert lengths["flux"].tolist() == [512] * 3
    assert torch.equal(lengths["chroma"], real + 1)
    assert (lengths["pixart_alpha"] <= 120).all()


def test_captions_that_are_cut_are_counted_with_their_length(write_captions: WriteCaptions, tmp_path: Path) -> None:
    texts = ["a bird", "a bird " * 600]
    report = encode_parquet(job(write_captions(texts), tmp_path / "out", "flux"))
    uncut = TextEncoder.from_pretrained("builtin:tiny").tokenizer.encode(texts).lengths.max()
    assert (report.totals["truncated"], report.totals["longest"]) == (1, uncut)
    assert uncut > 512


def test_another_recipe_or_option_is_another_job(write_captions: WriteCaptions, tmp_path: Path) -> None:
    folder = write_captions(CAPTIONS[:3])
    encode_parquet(job(folder, tmp_path / "out", "flux"))
    with pytest.raises(JobMismatchError, match="recipe"):
        encode_parquet(job(folder, tmp_path / "out", "flux", recipe_options={"max_sequence_length": 256}))
    with pytest.raises(JobMismatchError, match="recipe"):
        encode_parquet(job(folder, tmp_path / "out", "chroma"))


def test_a_null_prompt_that_is_lost_is_named_and_made_again(write_captions: WriteCaptions, tmp_path: Path) -> None:
    folder, output = write_captions(CAPTIONS[:3]), tmp_path / "out"
    encode_parquet(job(folder, output, "chroma"))
    before = load_embeddings(output)[1].to_pipeline()
    (output / NULL).unlink()
    with pytest.raises(OutputError, match=f"{NULL} is missing; run the same"):
        load_embeddings(output)
    encode_parquet(job(folder, output, "chroma"))
    assert_equal(load_embeddings(output)[1].to_pipeline().null_embeds, before.null_embeds)


def test_a_new_generation_has_its_own_null_prompt(write_captions: WriteCaptions, tmp_path: Path) -> None:
    folder, output = write_captions(CAPTIONS[:3]), tmp_path / "out"
    encode_parquet(job(folder, output, "chroma"))
    encode_parquet(job(folder, output, "pixart_alpha", overwrite=True))
    conditioning = open_output(output).conditioning
    assert conditioning is not None
    assert conditioning.recipe.name == "pixart_alpha"


def test_a_shard_alone_knows_its_recipe_and_null_prompt(write_captions: WriteCaptions, tmp_path: Path) -> None:
    encode_parquet(job(write_captions(CAPTIONS), tmp_path / "out", "chroma"))
    folder = open_output(tmp_path / "out")
    whole = load_embeddings(tmp_path / "out")[1].to_pipeline()
    alone = load_embeddings(tmp_path / "out" / folder.shards[0])[1].to_pipeline()
    count = len(alone.prompt_embeds)
    assert 0 < count < len(CAPTIONS)
    assert torch.equal(alone.prompt_embeds, whole.prompt_embeds[:count])
    assert_equal(alone.null_embeds, None if whole.null_embeds is None else whole.null_embeds[:count])
