"""Hashes of files are computed once, whatever becomes of the cache."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from t5enc.checkpoint import fingerprint as hashes
from t5enc.checkpoint.fingerprint import hash_files


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose content was hashed."""
    seen: list[Path] = []
    hash_file = hashes._hash_file

    def watch(path: Path) -> str:
        seen.append(path)
        return hash_file(path)

    monkeypatch.setattr(hashes, "_hash_file", watch)
    return seen


def test_a_known_file_is_not_read_again(tmp_path: Path, reads: list[Path]) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"one")
    assert hash_files([file], tmp_path / "cache") == [sha256(b"one")]
    assert hash_files([file], tmp_path / "cache") == [sha256(b"one")]
    assert reads == [file]


@pytest.mark.parametrize("content", [b"two", b"longer"], ids=["same size", "other size"])
def test_a_changed_file_is_read_again(content: bytes, tmp_path: Path, reads: list[Path]) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"one")
    hash_files([file], tmp_path / "cache")
    file.write_bytes(content)
    os.utime(file, ns=(1, 1))
    assert hash_files([file], tmp_path / "cache") == [sha256(content)]
    assert len(reads) == 2


def test_hashes_come_in_the_order_of_the_files(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text(name)
    found = hash_files([tmp_path / name for name in "cab"], tmp_path / "cache")
    assert found == [sha256(name.encode()) for name in "cab"]


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"a": 1}', '{"PATH": {"sha256": "short"}}'])
def test_a_damaged_cache_is_ignored_and_written_anew(damage: str, tmp_path: Path, reads: list[Path]) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"one")
    cache = tmp_path / "cache" / "hashes.json"
    cache.parent.mkdir()
    cache.write_text(damage.replace("PATH", str(file)))
    assert hash_files([file], cache.parent) == [sha256(b"one")]
    assert json.loads(cache.read_text())[str(file)]["sha256"] == sha256(b"one")
    assert [entry.name for entry in cache.parent.iterdir()] == ["hashes.json"]


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert hash_files([tmp_path / "a"], tmp_path / "cache") == [sha256(b"one")]


def test_what_others_put_into_the_cache_stays(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name)
        hash_files([tmp_path / name], tmp_path / "cache")
    assert len(json.loads((tmp_path / "cache" / "hashes.json").read_text())) == 2


def test_a_blob_of_the_hubs_cache_tells_its_hash_by_its_name(tmp_path: Path, reads: list[Path]) -> None:
    name = sha256(b"as the hub says")
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / name).write_bytes(b"weights")
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blobs" / name)
    assert hash_files([tmp_path / "model.safetensors"], tmp_path / "cache") == [name]
    assert reads == []
