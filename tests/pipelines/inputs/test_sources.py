"""Listing input files: folders, globs and URIs, and the names that files have in the output."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from pipelines.inputs.footers import read_footer
from pipelines.inputs.sources import SourceFile, _explain, open_filesystem, open_inputs
from t5enc.errors import SourceError


def write(path: Path, *texts: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"caption": list(texts) or ["a red bird"]}), path)
    return path


def sources(*inputs: Any) -> list[str]:
    return [file.source for file in open_inputs([str(item) for item in inputs]).files()]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two partitions and a loose file, among markers, left-overs and files of other kinds."""
    root = tmp_path / "captions"
    for name in ("year=2023/a.parquet", "year=2023/b.parq", "year=2024/deep/c.pq", "z.parquet"):
        write(root / name)
    for name in ("_temporary/0.parquet", ".git/x.parquet", "year=2024/.hidden.parquet", "_metadata.parquet"):
        write(root / name)
    for name in ("_SUCCESS", "notes.txt", "year=2023/readme.md"):
        (root / name).write_text("no parquet")
    return root


EVERYTHING = ["year=2023/a.parquet", "year=2023/b.parq", "year=2024/deep/c.pq", "z.parquet"]


@pytest.fixture
def memory() -> Iterator[Any]:
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    for entry in filesystem.ls("/", detail=False):
        filesystem.rm(entry, recursive=True)


def copy_to_memory(filesystem: Any, tree: Path, root: str) -> None:
    for path in (path for path in tree.rglob("*") if path.is_file()):
        with filesystem.open(f"{root}/{path.relative_to(tree).as_posix()}", "wb") as file:
            file.write(path.read_bytes())


def test_names_are_below_the_folder_given_and_hidden_names_are_passed_over(tree: Path) -> None:
    inputs = open_inputs([str(tree)])
    assert [file.source for file in inputs.files()] == EVERYTHING
    assert all(file.path == f"{tree}/{file.source}" for file in inputs.files())
    assert all(file.size == Path(file.path).stat().st_size for file in inputs.files())


def test_every_spelling_of_a_folder_gives_the_same_sources(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree.parent)
    for given in ("captions", "captions/", "./captions", "captions/../captions//", str(tree), tree.as_uri()):
        assert sources(given) == EVERYTHING, given


def test_a_single_file_has_its_folder_as_root_whatever_its_name(tree: Path) -> None:
    odd = write(tree / "_part-0")
    assert sources(tree / "z.parquet") == ["z.parquet"]
    assert sources(tree / "year=2024/deep/c.pq") == ["c.pq"]
    assert sources(odd) == ["_part-0"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.parquet", ["z.parquet"]),
        ("*", EVERYTHING),
        ("**", EVERYTHING),
        ("**/*.pq", ["year=2024/deep/c.pq"]),
        ("**/*.parquet", ["year=2023/a.parquet", "z.parquet"]),
        ("year=202?/*", EVERYTHING[:3]),
        ("year=202[!3]/**/c.*", ["year=2024/deep/c.pq"]),
        ("year=2024/deep/c.*", ["c.pq"]),
        ("*/deep/c.pq", ["year=2024/deep/c.pq"]),
        ("_temp*/*", ["_temporary/0.parquet"]),
        ("*/*.md", ["year=2023/readme.md"]),
    ],
)
def test_names_are_below_the_longest_plain_folder_of_a_glob(tree: Path, pattern: str, expected: list[str]) -> None:
    assert sources(f"{tree}/{pattern}") == expected


def test_a_glob_lists_only_folders_on_its_way(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    list_folder = pafs.FSSpecHandler.get_file_info_selector

    def watch(handler: Any, selector: Any) -> Any:
        listed.append(selector.base_dir)
        return list_folder(handler, selector)

    monkeypatch.setattr(pafs.FSSpecHandler, "get_file_info_selector", watch)
    assert sources(f"local://{tree}/year=202[3]/*.parquet") == ["year=2023/a.parquet"]
    assert listed == [str(tree), f"{tree}/year=2023"]


def test_what_else_is_given_has_no_bearing_on_a_name(tree: Path) -> None:
    assert sources(tree / "year=2024/deep", tree / "z.parquet", tree / "year=2023") == [
        "c.pq",
        "year=2023/a.parquet",
        "year=2023/b.parq",
        "z.parquet",
    ]


def test_partitions_in_the_path_of_an_input_are_those_of_its_files(tree: Path) -> None:
    """As `in/year=*` gives them where a shell has expanded it."""
    assert sources(tree / "year=2023", tree / "year=2024") == EVERYTHING[:3]
    assert sources(tree / "year=2023/b.parq") == ["year=2023/b.parq"]
    assert sources(f"{tree}/year=2023/[ab].*") == EVERYTHING[:2]
    (file,) = open_inputs([str(tree / "year=2023/b.parq")]).files()
    assert file.partitions == (("year", "2023"),)


def test_files_of_one_name_get_more_of_their_paths(tmp_path: Path) -> None:
    for name in ("a/2023/0.parquet", "a/2024/0.parquet", "b/2024/0.parquet", "b/1.parquet"):
        write(tmp_path / name)
    assert sources(tmp_path / "a/2023", tmp_path / "b") == ["0.parquet", "1.parquet", "2024/0.parquet"]
    assert sources(tmp_path / "a/2023", tmp_path / "a/2024") == ["2023/0.parquet", "2024/0.parquet"]
    both = [tmp_path / "a/2024", tmp_path / "b/2024", tmp_path / "a/2023"]
    assert sources(*both) == sources(*reversed(both)) == ["2023/0.parquet", "a/2024/0.parquet", "b/2024/0.parquet"]


def test_a_file_of_several_inputs_is_named_by_the_outermost_root(tree: Path) -> None:
    assert sources(tree / "year=2024/deep", f"{tree}/**/*.pq") == ["year=2024/deep/c.pq"]


def test_a_file_reached_twice_is_listed_once(tree: Path) -> None:
    assert sources(tree, f"{tree}/*.parquet", tree / "year=2023", tree / "z.parquet", f"{tree}/") == EVERYTHING


@pytest.mark.parametrize(
    "name",
    ["a b.parquet", "ünï/日本.parquet", "100%.parquet", "%41.parquet", "a=b=c.parquet", "[1]*?.parquet"],
)
def test_odd_names_are_found_as_folder_as_file_and_by_uri(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "in" / name)
    assert sources(tmp_path / "in") == [name]
    assert sources(path) == [path.name]
    assert sources(path.as_uri()) == [path.name]
    assert sources(tmp_path / "in" / "**" / "*.parquet") == [name]
    with pa.OSFile(str(path)) as file:
        assert pq.read_table(file).num_rows == 1


def test_hive_segments_become_partitions(tmp_path: Path) -> None:
    write(tmp_path / "lang=en%2Fgb" / "none=__HIVE_DEFAULT_PARTITION__" / "_shard=a=b" / "plain" / "x=1.parquet")
    (file,) = open_inputs([str(tmp_path)]).files()
    assert file.partitions == (("lang", "en/gb"), ("none", None), ("_shard", "a=b"))
    (below,) = open_inputs([f"{tmp_path}/lang=en%2Fgb/*/*/*/*.parquet"]).files()
    assert below.partitions == file.partitions


def test_a_copied_tree_has_equal_sources_and_digests(tree: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tree, tmp_path / "elsewhere" / "mount")
    for path in copy.rglob("*.p*"):
        os.utime(path, (1, 1))

    def describe(root: Path) -> list[tuple[str, int, str]]:
        inputs = open_inputs([str(root)])
        return [(f.source, f.size, read_footer(inputs.filesystem, f).digest) for f in inputs.files()]

    assert describe(copy) == describe(tree)


def test_a_foreign_filesystem_is_read_through_fsspec(tree: Path, memory: Any) -> None:
    copy_to_memory(memory, tree, "/bücket/a b%")
    for given in ("memory://bücket/a b%", "memory://bücket/a b%/", "memory://bücket/a b%/**"):
        inputs = open_inputs([given])
        assert [file.source for file in inputs.files()] == EVERYTHING
    assert sources("memory://bücket/*/year=2023/*.parquet") == ["a b%/year=2023/a.parquet"]
    assert sources("memory://bücket/a b%/z.parquet", "memory://bücket/a b%/year=2024") == EVERYTHING[2:]
    (file,) = open_inputs(["memory://bücket/a b%/z.parquet"]).files()
    assert read_footer(inputs.filesystem, file).num_rows == 1


def test_a_foreign_listing_is_never_an_old_one(tree: Path, memory: Any) -> None:
    copy_to_memory(memory, tree, "/captions")
    assert sources("memory://captions") == EVERYTHING
    memory.rm("/captions/z.parquet")
    assert sources("memory://captions") == EVERYTHING[:-1]


def test_only_the_bucket_of_a_native_uri_is_parsed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def from_uri(uri: str) -> tuple[Any, str]:
        opened.append(uri)
        return pafs.SubTreeFileSystem(str(tree.parent), pafs.LocalFileSystem()), "captions"

    write(tree / "q?x" / "100% [a].parquet")
    monkeypatch.setattr(pafs, "FileSystem", SimpleNamespace(from_uri=from_uri))
    assert sources("s3://bucket/year=2024?region=eu-west-1&scheme=http") == EVERYTHING[2:3]
    assert sources("s3://bucket/year=202?/*.parquet") == EVERYTHING[:1]
    assert sources("gs://me@bucket/q?x/100% [a].parquet") == ["100% [a].parquet"]
    assert opened == ["s3://bucket?region=eu-west-1&scheme=http", "s3://bucket", "gs://me@bucket"]


def test_storage_options_reach_the_filesystem() -> None:
    options = {"anonymous": True, "region": "eu-west-1", "endpoint_override": "127.0.0.1:9"}
    filesystem, path = open_filesystem("s3://bucket/a b/c", options)
    assert (filesystem, path) == (pafs.S3FileSystem(**options), "bucket/a b/c")
    assert filesystem != pafs.S3FileSystem(**options | {"region": "eu-west-2"})
    with pytest.raises(SourceError, match=r"s3://bucket: expected a filesystem that can be opened.*nonsense"):
        open_filesystem("s3://bucket", {"nonsense": 1})


def test_inputs_on_different_filesystems_are_refused(tree: Path, memory: Any) -> None:
    copy_to_memory(memory, tree, "/captions")
    with pytest.raises(SourceError, match=r"memory://captions: expected the filesystem of .*captions"):
        open_inputs([str(tree), "memory://captions"])


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere: expected a file, a folder or a glob, got .* not exist"):
        open_inputs([str(tmp_path / "nowhere")])
    with pytest.raises(SourceError, match=r"nowhere/\*\.parquet: expected"):
        sources(tmp_path / "nowhere" / "*.parquet")
    with pytest.raises(SourceError, match="at least one"):
        open_inputs([])


def test_an_input_without_parquet_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"expected files named \*\.parquet.* got no files at all"):
        sources(tmp_path)
    for name in ("a.csv", "b.csv", "sub/c.csv", "sub/d.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    with pytest.raises(SourceError, match=r"got only a\.csv, b\.csv, sub/c\.csv and 1 more"):
        sources(tmp_path)
    with pytest.raises(SourceError, match=r"\*\.parquet: expected .* got only a\.csv"):
        sources(tmp_path / "*.parquet")
    (tmp_path / "a\n.csv").write_text("x")
    with pytest.raises(SourceError, match=r"got only a\.csv, a\\n\.csv, b\.csv and 2 more"):
        sources(tmp_path)
    write(tmp_path / "good.parquet")
    with pytest.raises(SourceError, match="sub: expected"):
        sources(tmp_path / "good.parquet", tmp_path / "sub")


@pytest.mark.parametrize("uri", ["nope://a/b", "file://otherhost/a", "s3://bucket?nonsense=1"])
def test_a_uri_that_cannot_be_opened_is_a_source_error(uri: str) -> None:
    with pytest.raises(SourceError, match="expected a filesystem that can be opened"):
        open_inputs([uri])


def test_source_files_are_hashable_and_picklable() -> None:
    file = SourceFile(source="a.parquet", path="/x/a.parquet", size=3, partitions=(("k", None),))
    assert pickle.loads(pickle.dumps(file)) == file
    assert len({file, pickle.loads(pickle.dumps(file))}) == 1


@pytest.mark.parametrize("uri", ["s3://key:secret@bu cket/a", "s3://key:secret@bucket/a?scheme=none"])
def test_an_input_that_cannot_be_read_is_told_without_its_keys(uri: str) -> None:
    with pytest.raises(SourceError, match=r"^s3://bu") as caught:
        open_inputs([uri])
    assert "secret" not in str(caught.value)


def test_inputs_of_two_filesystems_are_told_without_their_keys() -> None:
    with pytest.raises(SourceError, match=r"^memory://a: expected") as caught:
        raise _explain("memory://key:secret@a", "expected the filesystem of s3://key:secret@b, got another one")
    assert "secret" not in str(caught.value)
