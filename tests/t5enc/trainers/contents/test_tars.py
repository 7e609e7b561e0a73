from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t5enc.errors import OutputError
from t5enc.trainers.contents.tars import (
    check_key,
    make_end,
    make_index,
    make_key,
    make_member,
    read_keys,
)
from tests.t5enc.trainers.hard_paths import make_paths

KEYS = st.text(st.sampled_from("ab_.-/ ü日\n\x00é%~"), max_size=12) | st.text(max_size=40)
# webdataset leaves its files open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
shares_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def write_tar(path: Path, samples: list[tuple[str, bytes]], extension: str = "npy") -> None:
    data = b"".join(piece for key, value in samples for piece in make_member(f"{key}.{extension}", [value]))
    path.write_bytes(data + make_end(len(data)))


def read_samples(path: Path) -> list[tuple[str, bytes]]:
    """With the real library."""
    dataset = webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False)
    return [(sample["__key__"], sample["npy"]) for sample in dataset]


@shares_folder
@given(keys=st.lists(KEYS, unique=True, max_size=8), sizes=st.data())
def test_webdataset_reads_every_key_that_is_let_through(tmp_path: Path, keys: list[str], sizes: st.DataObject) -> None:
    allowed = [key for key in map(make_key, keys) if check_key(key, "npy") is None]
    allowed = list(dict.fromkeys(allowed))
    samples = [(key, bytes(sizes.draw(st.integers(0, 1500)))) for key in allowed]
    write_tar(tmp_path / "a.tar", samples)
    assert read_samples(tmp_path / "a.tar") == samples
    assert read_keys(tmp_path / "a.tar") == allowed


def test_paths_have_the_keys_that_webdataset_makes_of_them() -> None:
    allowed = [path for path in make_paths() if check_key(make_key(path), "npy") is None]
    assert len(allowed) > 500
    for path in allowed:
        expected, _ = webdataset.tariterators.base_plus_ext(path if "." in path.rpartition("/")[2] else f"{path}.x")
        assert make_key(path) == expected


def test_a_tar_has_the_bytes_that_webdatasets_writer_makes(tmp_path: Path) -> None:
    samples = [("a", b"1"), ("b/ü", bytes(600))]
    stream = io.BytesIO()
    writer = webdataset.TarWriter(stream, mtime=0)
    writer.tarstream.format = tarfile.USTAR_FORMAT
    for key, value in samples:
        writer.write({"__key__": key, "npy.bytes": value})
    writer.close()
    write_tar(tmp_path / "a.tar", samples, "npy.bytes")
    assert (tmp_path / "a.tar").read_bytes() == stream.getvalue()


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("", "empty"),
        ("a/", "empty"),
        ("/a", "empty"),
        ("../a", "`..`"),
        ("a\nb", "printed"),
        ("__a__", "passes over"),
        ("é" * 60, "124 bytes, and wids reads 100"),
    ],
)
def test_keys_that_readers_lose_are_refused(key: str, words: str) -> None:
    assert words in str(check_key(key, "npy"))


def test_a_tar_of_no_samples_is_one() -> None:
    with tarfile.open(fileobj=io.BytesIO(make_end(0))) as archive:
        assert archive.getnames() == []


def test_a_member_is_a_block_and_whole_blocks() -> None:
    for size in (0, 1, 511, 512, 513):
        assert sum(map(len, make_member("a.npy", [bytes(size)]))) == 512 + -(-size // 512) * 512


def test_an_index_is_told_in_order() -> None:
    content = json.loads(make_index([("b.tar", 3), ("a.tar", 2)]))
    assert content["shardlist"] == [{"url": "b.tar", "nsamples": 3}, {"url": "a.tar", "nsamples": 2}]
    assert content["wids_version"] == 1


def test_what_is_no_tar_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no" * 700)
    with pytest.raises(OutputError, match=r"a.tar: expected a tar, got"):
        read_keys(tmp_path / "a.tar")
