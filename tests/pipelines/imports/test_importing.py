"""A cache becomes an output that all commands read, and gives the same cache again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from pipelines.commands.fsck import check_output
from pipelines.imports.importing import import_cache
from pipelines.imports.readers import open_reader
from pipelines.stores.store import open_store
from t5enc import load_embeddings
from t5enc.errors import ConfigError, JobMismatchError, SourceError
from t5enc.output import open_output
from t5enc.storage.layout import JOB, SUCCESS
from t5enc.trainers import export_embeddings
from tests.t5enc.trainers.outputs import DIM, Written, write_output
from tests.t5enc.trainers.test_export import list_files

CAPTIONS = ["a fox", "red, green", "ünï ⟨🦊⟩", "", 'quo"te \\ back', "tab\tand\x01control", "long"]
WAN = {"arch": "wan21"}


@pytest.fixture
def made(tmp_path: Path) -> Written:
    return write_output(tmp_path / "out", CAPTIONS, lengths=[1, 2, 3, 1, 4, 5, 512])


def read_rows(output: Path) -> dict[str, torch.Tensor]:
    table, embeddings = load_embeddings(output)
    return dict(zip(table["caption"].to_pylist(), embeddings, strict=True))


def test_musubis_rows_and_captions_come_back(tmp_path: Path, made: Written) -> None:
    export_embeddings("musubi", made.folder, tmp_path / "cache")
    done = import_cache(open_reader("musubi"), tmp_path / "cache", str(tmp_path / "in"))
    assert (done.rows, done.errors, dict(done.left_out)) == (len(CAPTIONS), 0, {})
    found = read_rows(tmp_path / "in")
    for caption, rows in zip(made.captions, made.embeddings, strict=True):
        assert torch.equal(found[caption.strip()], rows)
    assert check_output(open_store(str(tmp_path / "in")), deep=True) == []
    export_embeddings("musubi", tmp_path / "in", tmp_path / "again", stem_column="stem")
    assert list_files(tmp_path / "again") == list_files(tmp_path / "cache")


def test_the_job_says_what_is_not_known(tmp_path: Path, made: Written) -> None:
    export_embeddings("musubi", made.folder, tmp_path / "cache")
    import_cache(open_reader("musubi"), tmp_path / "cache", str(tmp_path / "in"))
    folder = open_output(tmp_path / "in")
    identity = folder.job["identity"]
    assert {identity[name] for name in ("weights", "tokenizer", "dtype")} == {"unknown"}
    assert identity["imported"]["format"] == "musubi"
    assert identity["recipe"]["name"] == "wan"
    assert folder.conditioning is not None
    assert folder.conditioning.null is not None
    assert torch.equal(folder.conditioning.null, made.embeddings[CAPTIONS.index("")])
    table, _ = load_embeddings(tmp_path / "in")
    assert dict(zip(table["caption"].to_pylist(), table["text_embedding_truncated"].to_pylist(), strict=True))["long"]


def test_without_the_rows_of_no_caption_there_is_no_null_prompt(tmp_path: Path) -> None:
    made = write_output(tmp_path / "out", ["a", "b"])
    export_embeddings("musubi", made.folder, tmp_path / "cache")
    import_cache(open_reader("musubi"), tmp_path / "cache", str(tmp_path / "in"))
    conditioning = open_output(tmp_path / "in").conditioning
    assert conditioning is not None
    assert (conditioning.recipe.null, conditioning.null) == ("none", None)


def test_damaged_files_are_rows_with_reasons_and_foreign_ones_are_left_out(tmp_path: Path, made: Written) -> None:
    cache = tmp_path / "cache"
    export_embeddings("musubi", made.folder, cache)
    save_file({"other": torch.zeros(2)}, cache / "1_wan_te.safetensors", {"caption1": "red, green"})
    save_file(
        {"varlen_t5_bfloat16": torch.zeros(1, DIM + 1).bfloat16()}, cache / "2_wan_te.safetensors", {"caption1": "x"}
    )
    (cache / "torn_wan_te.safetensors").write_bytes(b"\x08")
    save_file({"varlen_t5_bfloat16": torch.zeros(1, DIM)}, cache / "old_wan_te.safetensors")
    done = import_cache(open_reader("musubi"), cache, str(tmp_path / "in"))
    assert (done.rows, done.errors) == (len(CAPTIONS), 2)
    assert dict(done.left_out) == {"not a whole safetensors file": 1, "no caption1 in its metadata": 1}
    table, _ = load_embeddings(tmp_path / "in")
    errors = [error for error in table["text_embedding_error"].to_pylist() if error]
    assert "expected a tensor varlen_t5_..., got none" in errors[0]
    assert "expected up to 512 rows of 8 bfloat16" in errors[1]


def test_float8_is_imported_as_the_bfloat16_that_holds_it(tmp_path: Path, made: Written) -> None:
    export_embeddings("musubi", made.folder, tmp_path / "cache", options={"dtype": "float8_e4m3fn"})
    import_cache(open_reader("musubi"), tmp_path / "cache", str(tmp_path / "in"))
    expected = made.embeddings[0].to(torch.float8_e4m3fn).to(torch.bfloat16)
    assert torch.equal(read_rows(tmp_path / "in")["a fox"], expected)


def test_an_import_that_was_broken_off_goes_on_and_a_changed_cache_is_another_job(
    tmp_path: Path, made: Written
) -> None:
    export_embeddings("musubi", made.folder, tmp_path / "cache")
    reader, output = open_reader("musubi"), tmp_path / "in"
    import_cache(reader, tmp_path / "cache", str(output))
    shard = output / open_output(output).shards[0]
    written = pq.ParquetFile(shard).read()
    shard.unlink()
    (output / SUCCESS).unlink()
    import_cache(reader, tmp_path / "cache", str(output))
    assert pq.ParquetFile(shard).read() == written
    (tmp_path / "cache" / "0_wan_te.safetensors").unlink()
    with pytest.raises(JobMismatchError, match="imported"):
        import_cache(reader, tmp_path / "cache", str(output))


def test_ai_toolkits_rows_are_found_by_the_captions_beside_images(tmp_path: Path, made: Written) -> None:
    images = tmp_path / "set"
    export_embeddings("ai-toolkit", made.folder, images, options=WAN)
    export_embeddings("ai-toolkit", made.folder, images, options={**WAN, "write": "blanks"})
    for path, caption in zip(made.paths, made.captions, strict=True):
        (images / path).with_suffix(".txt").write_text(caption, encoding="utf-8")
    (images / made.paths[0]).with_suffix(".txt").write_text("another")
    done = import_cache(open_reader("ai-toolkit"), images, str(tmp_path / "in"))
    assert dict(done.left_out) == {"not of the caption in the .txt beside its image": 1}
    found = read_rows(tmp_path / "in")
    assert torch.equal(found["red,  green"], made.embeddings[1])
    assert torch.equal(found["long"], made.embeddings[6])


@pytest.mark.parametrize(
    ("family", "recipe", "length"),
    [("wan", "wan", 512), ("pixart_sigma", "pixart_sigma", 300), ("auraflow", "aura_flow", 120)],
)
def test_simple_tuners_rows_are_found_by_captions_that_are_given(
    tmp_path: Path, family: str, recipe: str, length: int
) -> None:
    made = write_output(tmp_path / "out", CAPTIONS, recipe=recipe, max_length=length)
    export_embeddings("simpletuner", made.folder, tmp_path / "cache", options={"family": family})
    reader = open_reader("simpletuner", {"family": family}, CAPTIONS[1:])
    done = import_cache(reader, tmp_path / "cache", str(tmp_path / "in"))
    assert dict(done.left_out) == {"of no caption that was given": 1}
    found = read_rows(tmp_path / "in")
    assert torch.equal(found["red, green"], made.embeddings[1])
    assert open_output(tmp_path / "in").job["identity"]["max_length"] == length


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="expected the folder of a cache"):
        import_cache(open_reader("musubi"), tmp_path / "none", str(tmp_path / "in"))
    with pytest.raises(SourceError, match="expected files of musubi, got none"):
        import_cache(open_reader("musubi"), tmp_path, str(tmp_path / "in"))
    with pytest.raises(ConfigError, match="format: expected one of musubi"):
        open_reader("other")
    with pytest.raises(ConfigError, match="simpletuner needs them"):
        open_reader("simpletuner")
    with pytest.raises(ConfigError, match="musubi has its own"):
        open_reader("musubi", captions=["a"])
    with pytest.raises(ConfigError, match="family: expected one of wan, pixart_sigma"):
        open_reader("simpletuner", {"family": "chroma"}, [])
    with pytest.raises(ConfigError, match="expected one of arch, trigger"):
        open_reader("ai-toolkit", {"size": "1"})


def test_the_command_imports_and_inspect_reads_it(tmp_path: Path, made: Written) -> None:
    export_embeddings("simpletuner", made.folder, tmp_path / "cache", options={"family": "wan"})
    pq.write_table(pa.table({"text": CAPTIONS}), tmp_path / "captions.parquet")
    cache, output = str(tmp_path / "cache"), str(tmp_path / "in")
    given = ["--captions", str(tmp_path / "captions.parquet"), "--caption-column", "text"]
    script = "import sys; from t5enc.cli import main; " + "".join(
        f"sys.argv[1:] = {arguments!r}; run(main); "
        for arguments in (["import", "simpletuner", cache, "-o", output, *given], ["inspect", output], ["fsck", output])
    )
    script = (
        "def run(main):\n    try:\n        main()\n    except SystemExit as error:\n        assert not error.code\n"
        + script
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=200)
    assert f"{len(CAPTIONS)} rows, 0 of them without an embedding" in done.stdout
    assert "unknown" in done.stdout
    assert json.loads((tmp_path / "in" / JOB).read_text())["record"]["inputs"] == [cache]
