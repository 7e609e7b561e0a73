"""Links, closed folders and odd names on local disks: nothing is passed over in silence, nor read forever."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.inputs import listing as listing_module
from pipelines.inputs.footers import read_footer
from pipelines.inputs.sources import Listing, open_inputs
from pipelines.plan.plan import Files
from pipelines.plan.units import PlannedFile
from t5enc.errors import SourceError


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"caption": ["a red bird"]}), path)
    return path


def listed(*inputs: object) -> Listing:
    return open_inputs([str(item) for item in inputs]).list()


def names(*inputs: object) -> list[str]:
    found = listed(*inputs)
    assert not found.unreadable
    return [file.source for file in found.files]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with one file."""
    return write(tmp_path / "in" / "a.parquet").parent


def test_a_snapshot_of_the_hubs_cache_is_read_through_its_links(tmp_path: Path) -> None:
    snapshot = tmp_path / ".cache" / "snapshots" / "0123abc" / "data"
    snapshot.mkdir(parents=True)
    for place in range(2):
        write(tmp_path / ".cache" / "blobs" / f"{place:064x}")
        (snapshot / f"train-{place}.parquet").symlink_to(f"../../../blobs/{place:064x}")
    assert names(snapshot) == ["train-0.parquet", "train-1.parquet"]
    assert names(snapshot.parent) == ["data/train-0.parquet", "data/train-1.parquet"]
    assert names(tmp_path / ".cache/snapshots/*/data/*.parquet")[0] == "0123abc/data/train-0.parquet"


@pytest.mark.parametrize("pattern", ["", "**", "*", "*.parquet", "[ab].parquet"])
def test_a_link_to_nothing_is_an_input_that_cannot_be_read(data: Path, pattern: str) -> None:
    (data / "b.parquet").symlink_to("../blobs/1")
    found = listed(data / pattern)
    assert [file.source for file in found.files] == ["a.parquet"]
    assert found.unreadable == {
        "b.parquet": "b.parquet: expected a file or a folder, got a link to ../blobs/1, where there is nothing"
    }


def test_a_link_to_nothing_without_extension_may_have_been_a_folder(data: Path) -> None:
    (data / "more").symlink_to("/not/mounted")
    (data / "notes.txt").symlink_to("/not/mounted/notes.txt")
    (data / ".#a.parquet").symlink_to("somebody@an-editors-lock")
    assert list(listed(data).unreadable) == ["more"]
    assert list(listed(f"{data}/**/*.parquet").unreadable) == ["more"]
    assert list(listed(f"{data}/*.parquet").unreadable) == []


@pytest.mark.parametrize("given", ["b.parquet", "*.parquet"])
def test_an_input_of_nothing_but_a_link_to_nothing_is_refused(tmp_path: Path, given: str) -> None:
    (tmp_path / "b.parquet").symlink_to("nowhere")
    with pytest.raises(SourceError, match=r"got a link to nowhere, where there is nothing"):
        listed(tmp_path / given)


def test_a_link_to_itself_is_told(data: Path) -> None:
    (data / "b.parquet").symlink_to("b.parquet")
    assert "Too many levels of symbolic links" in listed(data).unreadable["b.parquet"]


@pytest.mark.parametrize("pattern", ["", "**", "*", "**/*.parquet"])
def test_a_link_that_leads_back_is_not_followed(data: Path, pattern: str) -> None:
    inner = write(data / "sub" / "b.parquet").parent
    (data / "latest").symlink_to(data)
    (inner / "up").symlink_to("..")
    (inner / "again").symlink_to(inner)
    assert names(data / pattern) == ["a.parquet", "sub/b.parquet"]
    assert names(inner.parent / "sub" / "up" / "latest" / "sub" / "up" / pattern) == ["a.parquet", "sub/b.parquet"]


def test_folders_that_link_to_each_other_are_read_where_each_is_reached(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        write(tmp_path / name / f"{name}.parquet")
        (tmp_path / name / "other").symlink_to(f"../{other}")
    assert names(tmp_path) == ["a/a.parquet", "a/other/b.parquet", "b/b.parquet", "b/other/a.parquet"]


def test_a_link_to_a_folder_beside_it_is_another_place_as_for_every_reader(tmp_path: Path) -> None:
    write(tmp_path / "2023" / "a.parquet")
    (tmp_path / "latest").symlink_to("2023")
    assert names(tmp_path) == ["2023/a.parquet", "latest/a.parquet"]


def test_a_link_to_what_holds_the_input_is_told(data: Path) -> None:
    """All of it would be read, and only a part of it was asked for."""
    write(data.parent / "other.parquet")
    (data / "root").symlink_to(data.parent)
    for place in (data, f"{data}/**"):
        assert list(listed(place).unreadable) == ["root"]
        assert f"got a link to {data.parent}, which holds this folder" in listed(place).unreadable["root"]


def test_a_pattern_enters_a_link_that_leads_back_where_it_says_so(data: Path) -> None:
    (data / "latest").symlink_to(data)
    assert names(f"{data}/*/*.parquet") == ["latest/a.parquet"]
    assert names(f"{data}/latest/**") == ["a.parquet"]


@pytest.mark.parametrize("pattern", ["", "**", "**/*.parquet", "*"])
def test_a_folder_that_may_not_be_listed_is_told(data: Path, pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = ("closed", "lost+found", ".closed")
    for name in closed:
        write(data / name / "b.parquet")
    scandir = os.scandir

    def scan(path: bytes) -> Any:
        if os.fsdecode(path).endswith(closed):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    found = listed(data / pattern)
    assert [file.source for file in found.files] == ["a.parquet"]
    assert found.unreadable == {"closed": "closed: expected a folder that can be listed, got: Permission denied"}
    with pytest.raises(SourceError, match=r"closed: .*expected a folder that can be listed, got: Permission denied"):
        listed(data / "closed")


def test_what_is_no_file_is_told_by_its_kind(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(data / "pipe.parquet")
    os.mkfifo(data / "pipe")
    monkeypatch.chdir(data)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("b.parquet")
        (data / "c.parquet").symlink_to("/dev/null")
        found = listed(data)
    assert [file.source for file in found.files] == ["a.parquet"]
    assert {name: reason.rpartition(", got ")[2] for name, reason in found.unreadable.items()} == {
        "b.parquet": "a socket",
        "c.parquet": "a device",
        "pipe.parquet": "a named pipe",
    }
    with pytest.raises(SourceError, match=r"pipe\.parquet: expected a file, got a named pipe"):
        listed(data / "pipe.parquet")


def test_an_output_in_the_input_is_found_through_links(data: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(data)
    write(tmp_path / "out" / "data" / "a.parquet")
    (data / "sub").symlink_to(tmp_path / "out" / "data")

    def find_cover(given: Path, output: Path) -> str | None:
        inputs = open_inputs([str(given)])
        return inputs.find_cover(str(output), list(inputs.files()))

    assert find_cover(tmp_path / "linked", data / "new") == str(tmp_path / "linked")
    assert find_cover(data, tmp_path / "linked" / "new") == str(data)
    assert find_cover(data, tmp_path / "out") == str(tmp_path / "out")
    assert find_cover(data, tmp_path / "other") is None
    assert find_cover(data / "a.parquet", tmp_path / "out") is None


def test_a_folder_called_like_a_file_is_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "in" / "year.parquet" / "part-0.parquet")
    assert names(tmp_path / "in") == ["year.parquet/part-0.parquet"]
    assert names(tmp_path / "in" / "*.parquet") == ["year.parquet/part-0.parquet"]


def test_a_file_that_goes_while_it_is_listed_is_told(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(data / "b.parquet")
    look_at = listing_module._look_at

    def look_late(found: os.DirEntry[bytes], *rest: object) -> object:
        if found.name == b"b.parquet":
            (data / "b.parquet").unlink()
        return look_at(found, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(listing_module, "_look_at", look_late)
    assert list(listed(data).unreadable) == ["b.parquet"]


def in_bytes(folder: Path, name: bytes) -> bytes:
    return os.fsencode(folder) + b"/" + name


def test_a_name_that_is_not_utf8_is_read_and_told_with_its_bytes(data: Path) -> None:
    content = (data / "a.parquet").read_bytes()
    os.mkdir(in_bytes(data, b"\xff"))
    for name in (b"caf\xe9.parquet", b"caf\xe9.txt", b"\xff/b.parquet"):
        with open(in_bytes(data, name), "wb") as file:
            file.write(content)
    for place in (data, f"{data}/**", f"{data}/**/*.parquet"):
        assert names(place) == ["%FF/b.parquet", "a.parquet", "caf%E9.parquet"]
    assert names(os.fsdecode(in_bytes(data, b"caf\xe9.parquet"))) == ["caf%E9.parquet"]


def test_a_path_that_is_not_utf8_goes_through_the_plan_and_opens(data: Path) -> None:
    os.rename(data / "a.parquet", in_bytes(data, b"\xe9.parquet"))
    inputs = open_inputs([str(data)])
    (file,) = inputs.files()
    footer = read_footer(inputs.filesystem, file)
    planned = PlannedFile(file=file, num_rows=footer.num_rows, largest_group=1, digest=footer.digest)
    assert Files.of([planned])[0] == planned
    assert read_footer(inputs.filesystem, Files.of([planned])[0].file) == footer


def test_of_two_names_that_read_alike_one_is_refused(data: Path) -> None:
    content = (data / "a.parquet").read_bytes()
    (data / "caf%E9.parquet").write_bytes(content)
    with open(in_bytes(data, b"caf\xe9.parquet"), "wb") as file:
        file.write(content)
    found = listed(data)
    assert [file.source for file in found.files] == ["a.parquet", "caf%E9.parquet"]
    (reason,) = found.unreadable.values()
    assert "expected a name in UTF-8, or none that reads like" in reason
    assert r"caf\udce9.parquet: " in reason


FOLDERS = ("", "a", "a/b", "c", "c/d")


@given(st.lists(st.tuples(st.sampled_from(FOLDERS), st.sampled_from([*FOLDERS, "nowhere"])), max_size=6))
def test_whatever_links_to_what_each_file_is_there_and_no_folder_is_entered_from_itself(
    links: list[tuple[str, str]],
) -> None:
    with TemporaryDirectory() as name:
        root = Path(name, "in")
        for folder in FOLDERS:
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / "f.parquet").touch()
        for number, (folder, target) in enumerate(links):
            (root / folder / f"l{number}").symlink_to(root / target)
        found = listed(root)
        sources = {file.source for file in found.files}
        assert sources >= {str(PurePath(folder, "f.parquet")) for folder in FOLDERS}
        for source in sources:
            ways = [(root / parent).resolve() for parent in PurePath(source).parents]
            assert len(set(ways)) == len(ways), "no folder is entered from itself"
        nowhere = {str(PurePath(folder, f"l{n}")) for n, (folder, to) in enumerate(links) if to == "nowhere"}
        assert found.unreadable.keys() >= nowhere
        assert {PurePath(source).name for source in found.unreadable} == {PurePath(source).name for source in nowhere}
