"""Inputs that are added, removed, given otherwise, moved or named oddly: nothing is computed twice, nothing is lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import EncodeJob, encode_parquet
from pipelines.commands.fsck import check_output
from pipelines.job import FrozenJob
from pipelines.progress.report import EncodeReport
from pipelines.run import state
from pipelines.stores.store import open_store
from t5enc import load_embeddings
from t5enc.errors import ExitCode, OutputError, UnfinishedError
from t5enc.storage.layout import SOURCES

pytestmark = pytest.mark.usefixtures("in_process")


def write(path: Path, *captions: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"caption": list(captions)}), path)
    return path


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """Two years, with a file of the same name each."""
    for year in ("2023", "2024"):
        write(tmp_path / "in" / year / "0.parquet", f"a bird of {year}", "another one")
    return tmp_path / "in"


def encode(inputs: Iterable[Path | str], **options: object) -> tuple[EncodeReport, int]:
    """Encode into `out`, beside the inputs; the report, and how many captions this run has computed."""
    given = {"inputs": list(map(str, inputs)), "output": "out", "model": "builtin:tiny", "rows_per_shard": 1}
    report = encode_parquet(EncodeJob.from_mapping(given | options))
    if report.exit_code == ExitCode.DONE:
        assert check_output(open_store("out"), deep=True) == []
    return report, report.progress.counts.captions


def read_sources() -> list[str]:
    sources = load_embeddings("out")[0]["text_embedding_source"].to_pylist()
    assert sources == sorted(sources)
    return list(dict.fromkeys(sources))


def read_rows() -> dict[str, list[str]]:
    """The captions of each source."""
    table = load_embeddings("out")[0]
    captions: dict[str, list[str]] = {}
    for source, caption in zip(table["text_embedding_source"].to_pylist(), table["caption"].to_pylist(), strict=True):
        captions.setdefault(source, []).append(caption)
    return captions


@pytest.fixture(autouse=True)
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_further_folder_computes_only_its_own(top: Path) -> None:
    assert encode([top / "2023"])[1] == 2
    assert encode([top / "2023", top / "2024"])[1] == 2
    assert read_sources() == ["0.parquet", "2024/0.parquet"]
    assert encode([top / "2024", top / "2023"])[1] == 0
    assert encode([top])[1] == 0, "the folder that holds both"
    assert encode([f"{top}/*/*.parquet"])[1] == 0
    assert encode([top / "2024"], replace=True)[1] == 0
    assert read_sources() == ["2024/0.parquet"]


def test_a_tree_that_is_copied_or_renamed_computes_nothing(top: Path, tmp_path: Path) -> None:
    assert encode([top / "2023", top / "2024"])[1] == 4
    moved = shutil.copytree(top, tmp_path / "elsewhere" / "mount")
    for path in moved.rglob("*.parquet"):
        os.utime(path, (1, 1))
    assert encode([moved / "2023", moved / "2024"])[1] == 0
    assert encode([moved])[1] == 0
    assert read_sources() == ["2023/0.parquet", "2024/0.parquet"]


def test_a_file_that_is_replaced_keeps_its_name_and_is_computed_anew(top: Path) -> None:
    encode([top / "2023"])
    write(top / "2023" / "0.parquet", "one that is new", "and another")
    assert encode([top / "2023"], replace=True)[1] == 2
    assert read_sources() == ["0.parquet"]


def test_a_run_that_is_lost_has_named_its_files_already(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it committed is kept, though it wrote no plan."""
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.encode.conclude", lambda run: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            encode([top / "2023"])
    with pytest.raises(UnfinishedError):
        load_embeddings("out")
    assert encode([top / "2023", top / "2024"])[1] == 2
    assert read_sources() == ["0.parquet", "2024/0.parquet"]


def test_an_output_of_an_earlier_release_keeps_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its names are below the folder that all of its inputs had in common, and only its plan says so."""
    for year in ("2023", "2024"):
        write(tmp_path / "in" / year / f"{year}.parquet", f"a bird of {year}")
    with monkeypatch.context() as patch:
        patch.setattr(state, "note_names", lambda *_, **__: None)
        encode([tmp_path / "in"])
    assert not Path("out", SOURCES).exists()
    assert encode([tmp_path / "in" / "2023", tmp_path / "in" / "2024"])[1] == 0
    assert read_sources() == ["2023/2023.parquet", "2024/2024.parquet"]


@pytest.mark.parametrize("own", [False, True])
def test_partitions_that_an_earlier_release_did_not_read_change_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    """Then a folder `lang=en` that was given itself was no partition."""
    path = tmp_path / "in" / "lang=en" / "a.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"caption": ["a bird"]} | ({"lang": ["of the file"]} if own else {})), path)
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.inputs.sources.own_root", lambda folder: folder)
        encode([path.parent])
    monkeypatch.setattr(FrozenJob, "is_of_all_files", False)
    assert encode([path.parent])[1] == 0
    assert read_sources() == ["a.parquet"]
    assert ("lang" in load_embeddings("out")[0].column_names) == own


def test_a_file_that_takes_the_place_of_one_that_moved_has_its_own_name(top: Path) -> None:
    encode([top / "2023"])
    (top / "2023" / "old").mkdir()
    os.rename(top / "2023" / "0.parquet", top / "2023" / "old" / "0.parquet")
    write(top / "2023" / "0.parquet", "one that is new", "and another")
    assert encode([top / "2023"], replace=True)[1] == 4
    assert read_rows() == {
        "0.parquet": ["one that is new", "and another"],
        "old/0.parquet": ["a bird of 2023", "another one"],
    }


def test_files_whose_footers_are_equal_have_each_their_own_rows(tmp_path: Path) -> None:
    """Of the same size, too: nothing but where they lie tells them apart."""
    for name in ("a", "x"):
        path = tmp_path / name / "0.parquet"
        path.parent.mkdir()
        rows = pa.table({"caption": [f"a bird of {name}"]})
        pq.write_table(rows, path, compression="none", use_dictionary=False, write_statistics=False)
    assert encode(["x"])[1] == 1
    assert encode(["x", "a"])[1] == 1
    assert read_rows() == {"0.parquet": ["a bird of x"], "a/0.parquet": ["a bird of a"]}
    Path("moved").mkdir()
    for name in ("a", "x"):
        shutil.move(name, f"moved/{name}")
    assert encode(["moved/x", "moved/a"])[1] == 0
    assert read_rows() == {"0.parquet": ["a bird of x"], "a/0.parquet": ["a bird of a"]}


def test_names_that_cannot_be_read_are_told(top: Path) -> None:
    encode([top / "2023"])
    Path("out", SOURCES).write_bytes(b"PAR1 and no more")
    with pytest.raises(OutputError, match=f"^{SOURCES}: cannot be read: .*; it says what the inputs are called"):
        encode([top])
    Path("out", SOURCES).unlink()
    assert encode([top])[1] == 2, "the plan tells them, too"


def test_starting_anew_names_anew(top: Path) -> None:
    encode([top])
    assert encode([top / "2024"], overwrite=True)[1] == 2
    assert read_sources() == ["0.parquet"]
    assert encode([top])[1] == 2
    assert read_sources() == ["0.parquet", "2023/0.parquet"]


def test_partitions_are_the_same_whichever_way_they_are_given(tmp_path: Path) -> None:
    folders = [tmp_path / "in" / f"lang={lang}" for lang in ("de", "en")]
    for folder in folders:
        write(folder / f"{folder.name[-2:]}.parquet", f"a bird in {folder.name}")
    assert encode(folders)[1] == 2
    assert load_embeddings("out")[0]["lang"].to_pylist() == ["de", "en"]
    assert encode([tmp_path / "in"])[1] == 0
    assert encode([tmp_path / "in" / "*"])[1] == 0


def test_a_running_job_of_nothing_new_writes_no_names(top: Path) -> None:
    encode([top])
    before = Path("out", SOURCES).stat().st_mtime_ns
    encode([top])
    assert Path("out", SOURCES).stat().st_mtime_ns == before


def test_what_cannot_be_read_is_named_and_leaves_no_success(top: Path) -> None:
    (top / "2024" / "1.parquet").symlink_to("../blobs/1")
    report, computed = encode([top / "2023", top / "2024"])
    assert (report.exit_code, computed) == (ExitCode.INPUTS_UNREADABLE, 4)
    assert "not read: 1.parquet: expected a file or a folder, got a link to ../blobs/1" in str(report)
    with pytest.raises(UnfinishedError):
        load_embeddings("out")
    write(top / "blobs" / "1", "a bird that is late")
    report, computed = encode([top / "2023", top / "2024"])
    assert (report.exit_code, computed) == (ExitCode.DONE, 1)
    assert read_sources() == ["1.parquet", "2023/0.parquet", "2024/0.parquet"]


def test_a_file_that_cannot_be_read_takes_no_name_that_another_has(top: Path) -> None:
    encode([top / "2023"])
    (top / "0.parquet").write_bytes(b"")
    report, computed = encode([top])
    assert computed == 4, "the name is the file's that cannot be read, once that can be"
    assert list(report.unreadable) == ["0.parquet"]
    assert report.unreadable["0.parquet"].startswith("0.parquet: expected a Parquet file, got an empty file")


def test_names_that_are_not_utf8_are_encoded(top: Path) -> None:
    os.rename(top / "2023" / "0.parquet", os.fsencode(top) + b"/2023/caf\xe9.parquet")
    write(top / "2023" / "a.parquet", "a bird")
    with open(os.fsencode(top) + b"/2023/\xff.txt", "wb") as file:
        file.write(b"\xff")
    assert encode([top / "2023"])[1] == 3
    assert read_sources() == ["a.parquet", "caf%E9.parquet"]
    assert encode([os.fsdecode(os.fsencode(top) + b"/2023/caf\xe9.parquet"), top / "2023"])[1] == 0


def test_an_output_that_cannot_be_looked_at_is_told(top: Path) -> None:
    Path("out").symlink_to("out")
    with pytest.raises(OutputError, match=r"out/.*: cannot be read: Too many levels"):
        encode([top])
