"""From captions to a trainer's cache and back: a real job's output is exported, imported, and exported again."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from pipelines import EncodeJob, encode_parquet
from pipelines.imports.importing import import_cache
from pipelines.imports.readers import open_reader
from t5enc import TextEncoder, load_embeddings
from t5enc.checkpoint.builtin import sample_captions
from t5enc.errors import OutputError
from t5enc.trainers import export_embeddings
from tests.t5enc.trainers.test_export import list_files

pytestmark = pytest.mark.usefixtures("in_process")
CAPTIONS = [*sample_captions()[:7], "red, green &amp; <b>", ""]


def encode(
    folder: Path, *, recipe: str = "wan", model: str = "builtin:tiny-umt5", captions: list[str] = CAPTIONS
) -> Path:
    """An output of captions and the names of their images, in bfloat16."""
    (folder / "captions").mkdir(parents=True)
    table = pa.table({"caption": captions, "image_path": [f"set/{index}.jpg" for index in range(len(captions))]})
    pq.write_table(table, folder / "captions" / "a.parquet")
    given = {"inputs": [str(folder / "captions")], "output": str(folder / "out"), "model": model, "recipe": recipe}
    encode_parquet(EncodeJob.from_mapping(given | {"storage_dtype": "bfloat16", "rows_per_shard": 4}))
    return folder / "out"


def test_musubis_cache_holds_the_encoders_rows_and_goes_back_and_forth(tmp_path: Path) -> None:
    output = encode(tmp_path / "job")
    assert export_embeddings("musubi", output, tmp_path / "cache").files == len(CAPTIONS)
    expected = TextEncoder.from_pretrained("builtin:tiny-umt5", recipe="wan").encode(CAPTIONS)
    for index, rows in enumerate(expected):
        found = load_file(tmp_path / "cache" / f"{index}_wan_te.safetensors")["varlen_t5_bfloat16"]
        torch.testing.assert_close(found, rows.to(torch.bfloat16), rtol=0.02, atol=0.02)
    import_cache(open_reader("musubi"), tmp_path / "cache", str(tmp_path / "in"))
    export_embeddings("musubi", tmp_path / "in", tmp_path / "again", stem_column="stem")
    assert list_files(tmp_path / "again") == list_files(tmp_path / "cache")


def test_simple_tuners_cache_holds_the_tensors_of_the_pipeline(tmp_path: Path) -> None:
    output = encode(tmp_path / "job", recipe="pixart_sigma", model="builtin:tiny")
    export_embeddings("simpletuner", output, tmp_path / "cache", options={"family": "pixart_sigma"})
    table, embeddings = load_embeddings(output)
    inputs = embeddings.to_pipeline()
    assert inputs.prompt_mask is not None
    files = {path.name: torch.load(path, weights_only=True) for path in (tmp_path / "cache").glob("*.pt")}
    found = {tuple(tensors["prompt_embeds"].flatten().tolist()): tensors for tensors in files.values()}
    for place in range(len(table)):
        tensors = found[tuple(inputs.prompt_embeds[place].flatten().tolist())]
        assert torch.equal(tensors["attention_mask"], inputs.prompt_mask[place])


def test_chroma_of_ai_toolkit_is_told_its_tokenizer(tmp_path: Path) -> None:
    captions = ["a fox", "red, green", ""]
    output = encode(tmp_path / "job", recipe="flux", model="builtin:tiny", captions=captions)
    options = {"arch": "chroma", "tokenizer": "builtin:tiny"}
    export_embeddings("ai-toolkit", output, tmp_path / "images", options=options)
    masks = [load_file(path)["attention_mask"] for path in sorted((tmp_path / "images").rglob("*.safetensors"))]
    assert [int(mask.sum()) for mask in masks][-1] == 1  # "" has its end alone
    with pytest.raises(OutputError, match="expected recipe wan at 512, got flux at 512"):
        export_embeddings("ai-toolkit", output, tmp_path / "images", options={"arch": "wan21"})
