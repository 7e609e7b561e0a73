"""What the main job makes of its inputs, exactly once, in order; on real Ray: test_real_ray.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipelines import EncodeJob, encode_parquet
from pipelines.actors.worker import SpanResult
from pipelines.commands.fsck import check_output
from pipelines.encode import encode_suspects
from pipelines.plan.units import Unit
from pipelines.run.reporting import forget_read
from pipelines.stores.store import open_store
from t5enc import TextEncoder, load_embeddings, open_pooler
from t5enc.checkpoint.builtin import sample_captions
from t5enc.errors import ConfigError, InputError, JobMismatchError, OutputError, SourceError, UnfinishedError
from tests.families import make_checkpoint
from tests.pipelines.conftest import WriteCaptions
from tests.t5enc.checkpoint.foreign.sentence_models import write_model

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.from_pretrained("builtin:tiny")


def job(inputs: Path, output: Path, **options: object) -> EncodeJob:
    return EncodeJob.from_mapping(
        {"inputs": [str(inputs)], "output": str(output), "model": "builtin:tiny", "storage_dtype": "float32"} | options
    )


def test_an_output_is_not_pooled_without_the_modules_of_its_checkpoint(
    write_captions: WriteCaptions, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "model")
    captions = sample_captions()[:6]
    encode_parquet(job(write_captions(captions), tmp_path / "out", model=str(model)))
    (shard,) = (path for path in (tmp_path / "out").rglob("*.parquet") if path.name[0].isdigit())
    expected = TextEncoder.from_pretrained(model).encode(captions).pooled()
    for place in (tmp_path / "out", shard):
        _, embeddings = load_embeddings(place)
        with pytest.raises(ConfigError, match=r"expected pooler=t5enc.open_pooler\(MODEL\), .*2_Dense"):
            embeddings.pooled()
        torch.testing.assert_close(embeddings.pooled(pooler=open_pooler(model)), expected, rtol=0, atol=2e-5)


def test_a_suspect_that_fails_keeps_none_of_the_others_from_their_turn() -> None:
    units = [Unit(source="a.parquet", first_row=row, num_rows=1, id=str(row)) for row in range(4)]
    span: Any = "a span"
    suspects = {unit.id: SpanResult(kind="suspect", span=span, unit=unit) for unit in units}
    run: Any = SimpleNamespace(suspects=suspects, unreadable={})
    turns: list[int] = []

    def encode(_: Any, unit: Unit) -> SpanResult:
        turns.append(unit.first_row)
        if unit.first_row in (1, 2):
            raise OutputError(f"unit {unit.first_row}: died 3 times")
        return SpanResult(kind="returned")

    log: Any = None
    with pytest.raises(OutputError, match="unit 1: died 3 times"):
        encode_suspects(run, log, encode)
    assert turns == [0, 1, 2, 3]


def assert_sound(output: Path) -> None:
    assert check_output(open_store(str(output)), deep=True) == []


@pytest.mark.parametrize("storage", ["float16", "bfloat16", "int8", "fp8", "bf16z", "fp16z"])
def test_stored_embeddings_are_within_the_rounding_of_their_dtype(
    storage: str, write_captions: WriteCaptions, tmp_path: Path, encoder: TextEncoder
) -> None:
    captions = sample_captions()[:60]
    encode_parquet(job(write_captions(captions), tmp_path / "out", storage_dtype=storage))
    _, embeddings = load_embeddings(tmp_path / "out")
    exact = encoder.encode(captions)
    bits = {"float16": 11, "fp16z": 11, "bfloat16": 8, "bf16z": 8, "fp8": 4, "int8": 24}[storage]
    groups = exact.values.abs().unflatten(1, (-1, 32)).amax(dim=2).repeat_interleave(32, dim=1)
    scale = groups / 254 if storage == "int8" else 0.0
    bound = exact.values.abs() * 2.0**-bits + scale + (2**-10 if storage == "fp8" else 1e-5)
    assert torch.all((embeddings.values.float() - exact.values).abs() <= bound * 1.01)


def test_a_checkpoint_in_a_folder_gives_what_transformers_gives(tmp_path: Path) -> None:
    from t5enc.checkpoint.builtin import open_builtin, write_builtin

    model_folder, tokenizer_folder = tmp_path / "model", tmp_path / "tokenizer"
    vocabulary = open_builtin("builtin:tiny").config.vocab_size
    model = make_checkpoint("umt5", model_folder, vocab_size=vocabulary)
    write_builtin("builtin:tiny", tokenizer_folder)
    captions = sample_captions()[:40]
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"caption": captions}), tmp_path / "in" / "a.parquet")
    encode_parquet(job(tmp_path / "in", tmp_path / "out", model=str(model_folder), tokenizer=str(tokenizer_folder)))
    _, embeddings = load_embeddings(tmp_path / "out")
    ids = TextEncoder.from_pretrained(model_folder, tokenizer=str(tokenizer_folder)).tokenize(captions).ids
    for got, tokens in zip(embeddings, ids, strict=True):
        with torch.no_grad():
            expected = model(input_ids=torch.from_numpy(np.asarray(tokens, np.int64))[None]).last_hidden_state[0]
        assert (got - expected).norm() <= 2e-5 * expected.norm()


def test_rows_without_text_are_kept_with_their_reason(write_captions: WriteCaptions, tmp_path: Path) -> None:
    captions = ["a red bird", None, "", "a blue bird", None]
    report = encode_parquet(job(write_captions(captions), tmp_path / "out"))
    table, embeddings = load_embeddings(tmp_path / "out")
    assert table["text_embedding_error"].to_pylist() == [None, "null caption", None, None, "null caption"]
    assert embeddings.lengths.tolist()[1] == 0
    assert embeddings.lengths.tolist()[2] == 1, "the empty caption is one end token"
    assert (report.totals["captions"], report.totals["encoded"], report.totals["errors"]) == (5, 3, 2)
    assert_sound(tmp_path / "out")


def test_a_bad_row_fails_the_job_where_asked_to(write_captions: WriteCaptions, tmp_path: Path) -> None:
    with pytest.raises((InputError, OutputError), match=r"part-000\.parquet, row 1: null caption"):
        encode_parquet(job(write_captions(["a", None]), tmp_path / "out", on_error="fail"))
    with pytest.raises(UnfinishedError):
        load_embeddings(tmp_path / "out")


def test_several_captions_a_row_become_rows(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    texts = pa.array([["a bird", "a red bird"], [], None, ["a dog", None]])
    pq.write_table(pa.table({"id": [1, 2, 3, 4], "caption": texts}), tmp_path / "in" / "a.parquet")
    encode_parquet(job(tmp_path / "in", tmp_path / "all"))
    encode_parquet(job(tmp_path / "in", tmp_path / "first", caption_choice="first"))
    table, _ = load_embeddings(tmp_path / "all")
    assert table["id"].to_pylist() == [1, 1, 2, 3, 4, 4]
    assert table["text_embedding_caption_index"].to_pylist() == [0, 1, 0, 0, 0, 1]
    assert table["caption"].to_pylist() == ["a bird", "a red bird", None, None, "a dog", None]
    assert load_embeddings(tmp_path / "first")[0]["caption"].to_pylist() == ["a bird", None, None, "a dog"]


def test_partition_columns_and_nested_folders_are_kept(tmp_path: Path) -> None:
    for split in ("train", "val"):
        folder = tmp_path / "in" / f"split={split}" / "deep"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"caption": [f"a bird in {split}"]}), folder / "a.parquet")
    encode_parquet(job(tmp_path / "in", tmp_path / "out"))
    table, _ = load_embeddings(tmp_path / "out")
    assert table["split"].to_pylist() == ["train", "val"]
    assert table["text_embedding_source"].to_pylist() == ["split=train/deep/a.parquet", "split=val/deep/a.parquet"]


def test_running_a_finished_job_again_encodes_nothing(write_captions: WriteCaptions, tmp_path: Path) -> None:
    inputs = write_captions()
    first = encode_parquet(job(inputs, tmp_path / "out"))
    second = encode_parquet(job(inputs, tmp_path / "out"))
    assert second.totals == first.totals
    assert second.spans == 0


def test_another_job_on_the_same_output_is_refused_field_by_field(
    write_captions: WriteCaptions, tmp_path: Path
) -> None:
    inputs = write_captions(["a red bird"])
    encode_parquet(job(inputs, tmp_path / "out"))
    with pytest.raises(JobMismatchError, match="max_length: there 512, here 64") as caught:
        encode_parquet(job(inputs, tmp_path / "out", max_length=64))
    assert caught.value.differences == {"max_length": (512, 64)}
    encode_parquet(job(inputs, tmp_path / "out", max_length=64, overwrite=True))
    assert_sound(tmp_path / "out")


def test_a_missing_column_is_named_with_those_that_exist(write_captions: WriteCaptions, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"'text'.*caption"):
        encode_parquet(job(write_captions(["a"]), tmp_path / "out", text_column="text"))


@pytest.mark.parametrize("counts", [[0, 2], [2, 0, 3], [0, 0]], ids=["first", "between", "all"])
def test_files_without_rows_are_no_trouble(counts: list[int], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for part, count in enumerate(counts):
        table = pa.table({"caption": pa.array([f"caption {part} {row}" for row in range(count)], pa.string())})
        pq.write_table(table, tmp_path / "in" / f"{part}.parquet")
    report = encode_parquet(job(tmp_path / "in", tmp_path / "out"))
    assert (report.totals["captions"], report.exit_code) == (sum(counts), 0)
    assert_sound(tmp_path / "out")
    if sum(counts):
        table, _ = load_embeddings(tmp_path / "out")
        assert table["caption"].to_pylist() == [f"caption {p} {row}" for p, n in enumerate(counts) for row in range(n)]


def test_a_caption_of_many_megabytes_is_cut_by_an_actor_and_not_met_by_the_driver(tmp_path: Path) -> None:
    pq.write_table(pa.table({"caption": ["a cat", "many words " * 2_000_000]}), tmp_path / "in.parquet")
    report = encode_parquet(job(tmp_path / "in.parquet", tmp_path / "out"))
    assert (report.totals["encoded"], report.totals["truncated"]) == (2, 1)


def test_a_file_that_was_read_in_the_end_is_not_called_unreadable() -> None:
    left = [Unit(source="half.parquet", first_row=0, num_rows=1, id="1")]
    reasons = {"half.parquet": "timed out", "read.parquet": "timed out", "bad.parquet": "no Parquet"}
    resolved = SimpleNamespace(unreadable={"bad.parquet": "no Parquet"})
    run: Any = SimpleNamespace(unreadable=reasons, commit=SimpleNamespace(left=left), resolved=resolved)
    forget_read(run)
    assert set(run.unreadable) == {"half.parquet", "bad.parquet"}


def test_a_replaced_input_is_encoded_anew_and_a_removed_one_dropped(
    write_captions: WriteCaptions, tmp_path: Path
) -> None:
    inputs = write_captions(["a red bird", "a blue bird", "a dog"], rows_per_file=1)
    encode_parquet(job(inputs, tmp_path / "out"))
    pq.write_table(pa.table({"id": [7], "caption": ["a green frog on a leaf"]}), inputs / "part-001.parquet")
    (inputs / "part-002.parquet").unlink()
    with pytest.raises(OutputError, match=r"2 of the 3 shards .* 1 of inputs that have changed, 1 of inputs that"):
        encode_parquet(job(inputs, tmp_path / "out"))
    assert_sound(tmp_path / "out")
    report = encode_parquet(job(inputs, tmp_path / "out", replace=True))
    table, _ = load_embeddings(tmp_path / "out")
    assert table["caption"].to_pylist() == ["a red bird", "a green frog on a leaf"]
    assert report.progress.counts.captions == 1, "only the replaced file is encoded"
    assert_sound(tmp_path / "out")


def test_a_copied_and_touched_input_tree_resumes_without_encoding(
    write_captions: WriteCaptions, tmp_path: Path
) -> None:
    import shutil

    inputs = write_captions()
    encode_parquet(job(inputs, tmp_path / "out"))
    copied = tmp_path / "elsewhere" / "mounted"
    shutil.copytree(inputs, copied, copy_function=shutil.copyfile)
    assert encode_parquet(job(copied, tmp_path / "out")).spans == 0


def write_bare(path: Path, texts: list[str]) -> None:
    """A file whose size and footer say nothing of its texts but how long they are together."""
    pq.write_table(pa.table({"caption": texts}), path, compression="none", use_dictionary=False, write_statistics=False)


def test_an_edit_that_leaves_size_and_footer_is_found_where_one_asks_for_it(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_bare(tmp_path / "in" / "a.parquet", ["a cat", "a dog"])
    write_bare(tmp_path / "in" / "b.parquet", ["snow"])
    asked = {"inputs": tmp_path / "in", "output": tmp_path / "out"}
    encode_parquet(job(**asked))
    size = (tmp_path / "in" / "a.parquet").stat().st_size
    write_bare(tmp_path / "in" / "a.parquet", ["a cat", "a cow"])
    assert (tmp_path / "in" / "a.parquet").stat().st_size == size
    assert encode_parquet(job(**asked)).progress.counts.captions == 0
    report = encode_parquet(job(**asked, recheck=True))
    assert report.progress.counts.captions == 2
    assert load_embeddings(tmp_path / "out")[0]["caption"].to_pylist() == ["a cat", "a cow", "snow"]
    assert check_output(open_store(str(tmp_path / "out")), deep=True) == []
    assert encode_parquet(job(**asked, recheck=True)).progress.counts.captions == 0


def test_an_output_inside_the_input_is_refused(write_captions: WriteCaptions) -> None:
    inputs = write_captions(["a"])
    with pytest.raises(OutputError, match="outside the input"):
        encode_parquet(job(inputs, inputs))
