from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
import torch

from t5enc.errors import ConfigError, OutputError
from t5enc.recipes.families import WAN
from t5enc.trainers import export_embeddings
from t5enc.trainers.acceptance import check_recipe
from t5enc.trainers.format import Caption, ShardRows
from t5enc.trainers.formats.fastvideo import LENGTH, FastVideo
from tests.t5enc.trainers.formats.fastvideo_loader import Loader
from tests.t5enc.trainers.formats.given_rows import make_caption, make_given
from tests.t5enc.trainers.hard_paths import make_captions, make_paths
from tests.t5enc.trainers.outputs import Written, write_output
from tests.t5enc.written import DIM, make_embeddings, make_table

PLAIN = FastVideo().recipes[0]


def make_rows(count: int, dim: int = DIM) -> list[tuple[Caption, torch.Tensor]]:
    draw = torch.Generator().manual_seed(0)
    captions = zip(make_paths()[:count], make_captions()[:count], strict=True)
    rows = [make_caption(path, text=text, row=row) for row, (path, text) in enumerate(captions)]
    return [(caption, torch.randn(1 + caption.row % 7, dim, generator=draw).bfloat16()) for caption in rows]


def write_shard(folder: Path, format_: FastVideo, rows: Sequence[tuple[Caption, torch.Tensor]], index: int = 0) -> Path:
    shard = ShardRows(filesystem=pyarrow.fs.LocalFileSystem(), path="none", index=index, num_rows=len(rows))
    path = folder / format_.name_shard(shard)
    made = format_.make_shard(shard, iter(rows), make_given(PLAIN, dim=DIM, storage="bfloat16"))
    path.write_bytes(b"".join(piece for pieces in made for piece in pieces))
    return path


def write_ours(
    path: Path, storage: str, *, columns: Sequence[str] = ("id", "caption"), failed: Sequence[int] = ()
) -> ShardRows:
    """A shard of the pipeline's, as far as the loader sees."""
    captions = ["a", "b", "c"]
    table = make_table(captions, make_embeddings([2, 3, 4], storage=storage), storage=storage, failed=failed)
    table = table.append_column("id", pa.array(["1", "2", "3"]))
    kept = [name for name in table.column_names if name.startswith("text_embedding_") or name in columns]
    pq.write_table(table.select(kept), path)
    return ShardRows(filesystem=pyarrow.fs.LocalFileSystem(), path=str(path), index=0, num_rows=3)


def test_the_loader_has_padded_rows_of_captions_that_are_not_blank(tmp_path: Path) -> None:
    rows = make_rows(40)
    write_shard(tmp_path, FastVideo(), rows[:30], 0)
    write_shard(tmp_path, FastVideo(), rows[30:], 1)
    kept = [(caption, values) for caption, values in rows if caption.text.strip()]
    loader = Loader(tmp_path)
    assert len(loader) == len(kept) < len(rows)
    batch = loader.__getitems__(range(len(kept)))
    assert [info["caption"] for info in batch["info_list"]] == [caption.text for caption, _ in kept]
    assert batch["text_attention_mask"].all()
    for found, (_, values) in zip(batch["text_embedding"], kept, strict=True):
        assert found.dtype == torch.float32
        assert torch.equal(found[: len(values)], values.float())
        assert not found[len(values) :].any()


def test_the_schema_is_the_trainers_for_captions_alone(tmp_path: Path) -> None:
    table = pq.read_table(write_shard(tmp_path, FastVideo(), make_rows(20)))
    assert table.schema.to_string() == (
        "id: string\ntext_embedding_bytes: binary\ntext_embedding_shape: list<element: int64>\n"
        "  child 0, element: int64\ntext_embedding_dtype: string\ncaption: string"
    )
    assert table["text_embedding_shape"].to_pylist() == [[LENGTH, DIM]] * len(table)
    assert set(table["text_embedding_dtype"].to_pylist()) == {"float32"}
    assert table["id"].to_pylist() == [
        "text_" + Path(caption.path).name.split(".")[0] for caption, _ in make_rows(20) if caption.text.strip()
    ]


def test_since_the_change_rows_keep_16_bits(tmp_path: Path) -> None:
    rows = [row for row in make_rows(20) if row[0].text.strip()]
    write_shard(tmp_path, FastVideo(since_1843=True), rows)
    batch = Loader(tmp_path, reads_dtype=True).__getitems__([0, 3])
    assert batch["text_embedding"].dtype == torch.bfloat16
    assert torch.equal(batch["text_embedding"][1, : len(rows[3][1])], rows[3][1])


def test_wide_rows_have_row_groups_of_their_own(tmp_path: Path) -> None:
    """Whoever reads one row reads its row group."""
    shard = ShardRows(filesystem=None, path="none", index=0, num_rows=3)
    rows = [(make_caption(str(row), row=row), torch.ones(1, 4096)) for row in range(3)]
    made = FastVideo().make_shard(shard, iter(rows), make_given(PLAIN, dim=4096, storage="float32"))
    data = b"".join(piece for pieces in made for piece in pieces)
    assert pq.read_metadata(pa.BufferReader(data)).num_row_groups == 3


@pytest.mark.parametrize(("storage", "since"), [("float32", False), ("float16", True), ("bfloat16", True)])
def test_the_loader_reads_our_shards_as_they_are(tmp_path: Path, storage: str, since: bool) -> None:
    shard = write_ours(tmp_path / "a.parquet", storage)
    assert FastVideo(since_1843=since).explain_link(shard, make_given(PLAIN, storage=storage)) is None
    batch = Loader(tmp_path, reads_dtype=since).__getitems__([0, 1, 2])
    for found, values in zip(batch["text_embedding"], make_embeddings([2, 3, 4], storage=storage), strict=True):
        assert torch.equal(found[: len(values)], values)
    assert batch["text_attention_mask"].sum(1).tolist() == [2, 3, 4]
    assert [info["id"] for info in batch["info_list"]] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("storage", "options", "words"),
    [
        ("float16", {}, "the loader reads float32 as stored, got float16; since_1843=true"),
        ("int8", {}, "the loader reads float32 as stored, got int8$"),
        ("float32", {"columns": ["caption"]}, "a column 'id', which the job did not keep"),
        ("float32", {"columns": ["id"]}, "a column 'caption', which the job did not keep"),
        ("float32", {"failed": [1]}, "rows without an embedding, at which the loader fails"),
    ],
)
def test_shards_that_the_loader_would_misread_are_not_linked(
    tmp_path: Path, storage: str, options: dict[str, list[str]], words: str
) -> None:
    shard = write_ours(tmp_path / "a.parquet", storage if storage != "int8" else "float16", **options)  # type: ignore[arg-type]
    found = FastVideo().explain_link(shard, make_given(PLAIN, storage=storage))
    assert found is not None
    assert re.search(words, found)


def test_the_loader_fails_at_rows_without_an_embedding(tmp_path: Path) -> None:
    write_ours(tmp_path / "a.parquet", "float32", failed=[1])
    with pytest.raises(TypeError):
        Loader(tmp_path).__getitems__([1])


def test_the_trainer_does_not_clean_captions() -> None:
    check_recipe(FastVideo(), make_given(PLAIN))
    with pytest.raises(
        OutputError,
        match=r"fastvideo: expected recipe wan with clean: none at 512, got wan at 512 .clean: expected none, got wan",
    ):
        check_recipe(FastVideo(), make_given(WAN))


def test_an_output_becomes_shards_that_the_loader_reads_in_order(tmp_path: Path) -> None:
    captions = [f"caption {number * number}" for number in range(20)]
    made = write_output(tmp_path / "out", captions, fields={"clean": "none"}, failed=[3])
    report = export_embeddings("fastvideo", made.folder, tmp_path / "to")
    loader = Loader(tmp_path / "to")
    kept = [number for number in range(20) if number != 3]
    batch = loader.__getitems__(range(len(loader)))
    assert [info["caption"] for info in batch["info_list"]] == [captions[number] for number in kept]
    for found, number in zip(batch["text_embedding"], kept, strict=True):
        assert torch.equal(found[: len(made.embeddings[number])], made.embeddings[number].float())
    assert (report.files, report.linked) == (3, 0)


def write_linkable(folder: Path, failed: Sequence[int] = ()) -> Written:
    """With a column that the loader reads as ids."""
    captions = [f"caption {number * number}" for number in range(20)]
    made = write_output(folder, captions, fields={"clean": "none"}, failed=failed, storage="float32")
    for path in folder.rglob("*.parquet"):
        table = pq.read_table(path)
        table = table.rename_columns(["id" if name == "image_path" else name for name in table.column_names])
        pq.write_table(table, path, row_group_size=3)
    return made


def test_links_are_our_shards_and_are_made_once(tmp_path: Path) -> None:
    made = write_linkable(tmp_path / "out")
    report = export_embeddings("fastvideo", made.folder, tmp_path / "to", link=True)
    assert (report.files, report.linked, report.bytes) == (3, 3, 0)
    shards = sorted((made.folder / "data").rglob("*.parquet"))
    links = sorted((tmp_path / "to").glob("*.parquet"))
    assert all(link.samefile(shard) and not link.is_symlink() for link, shard in zip(links, shards, strict=True))
    loader = Loader(tmp_path / "to")
    assert torch.equal(loader.__getitems__([19])["text_embedding"][0, : len(made.embeddings[19])], made.embeddings[19])
    again = export_embeddings("fastvideo", made.folder, tmp_path / "to", link=True)
    assert (again.files, again.whole) == (0, 3)


def test_between_disks_a_link_is_a_copy_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = write_linkable(tmp_path / "out")

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    report = export_embeddings("fastvideo", made.folder, tmp_path / "to", link=True)
    assert (report.files, report.linked) == (3, 0)
    assert "3 shards were copied" in str(report.note)
    assert len(Loader(tmp_path / "to")) == 20


def test_a_shard_that_cannot_be_linked_is_named_before_the_first_link(tmp_path: Path) -> None:
    made = write_linkable(tmp_path / "out", failed=[17])
    with pytest.raises(ConfigError, match=r"000000000002-.*cannot have this shard as it is: rows without an embedding"):
        export_embeddings("fastvideo", made.folder, tmp_path / "to", link=True)
    assert not list((tmp_path / "to").glob("*.parquet"))
