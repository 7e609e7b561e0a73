"""The index of an output's keys: what was put there is found where it was put, and nothing else is."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipelines.reuse import index as index_module
from pipelines.reuse.index import MOST_PARTS_BITS, NOT_THERE, UNREAD, KeyIndex, build_index, choose_bits, make_entries
from pipelines.reuse.index_cache import KEPT_SECONDS, open_index
from pipelines.reuse.index_cache import find_cache as find_own_cache  # before `conftest` puts another in its place


def draw(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 16)).astype(np.uint8)


# Names of indexes: the first three are of one output.
NAMES = [letters * 16 + more * 16 for letters, more in ("aa", "ab", "ac", "bb", "cc")]


def build(folder: Path, keys: NDArray[np.uint8], shard_rows: int = 100, bits: int = 0) -> bool:
    starts = range(0, len(keys), shard_rows)
    batches = (
        make_entries(part, shard, np.arange(len(part)))
        for shard, part in enumerate(keys[start : start + shard_rows] for start in starts)
    )
    rows = np.array([len(keys[start : start + shard_rows]) for start in starts], np.int64)
    build_index(folder, batches, rows, bits)
    return True


def build_ten(folder: Path) -> bool:
    return build(folder, draw(10))


def list_folders(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir() if path.is_dir()}


@given(count=st.integers(0, 400), bits=st.integers(0, 8), held=st.integers(1, 300), seed=st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_every_key_is_found_in_its_place_and_no_other_is(
    count: int, bits: int, held: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("index")
    keys = draw(count, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "HELD_KEYS", held)
        build(folder, keys, 30, bits)
    index = KeyIndex(folder)
    shards, places = index.find(keys)
    assert len(index) == count
    assert (shards * 30 + places).tolist() == list(range(count))
    assert index.number(shards, places).tolist() == list(range(count))
    others, _ = index.find(draw(count, seed + 10))
    assert (others == NOT_THERE).all()


def test_a_key_that_is_the_same_in_its_first_half_only_is_not_found(tmp_path: Path) -> None:
    keys = draw(50)
    build(tmp_path, keys)
    keys[:, 15] ^= 1
    assert (KeyIndex(tmp_path).find(keys)[0] == NOT_THERE).all()


def test_of_equal_keys_the_first_is_found(tmp_path: Path) -> None:
    keys = np.concatenate([draw(10), draw(10)])
    build(tmp_path, keys, shard_rows=10)
    index = KeyIndex(tmp_path)
    assert len(index) == 10
    assert index.find(keys)[0].tolist() == [0] * 20


def test_rows_after_a_shard_that_cannot_be_read_have_no_number(tmp_path: Path) -> None:
    keys = draw(3)
    entries = (make_entries(keys[[shard]], shard, np.zeros(1, np.int64)) for shard in range(3))
    build_index(tmp_path, entries, np.array([5, UNREAD, 5]), 0)
    index = KeyIndex(tmp_path)
    assert index.number(*index.find(keys)).tolist() == [0, NOT_THERE, NOT_THERE]


def test_there_are_no_more_parts_than_files_that_a_process_opens() -> None:
    assert choose_bits(0) == choose_bits(1000) == 0
    assert choose_bits(10**8) == 5
    assert choose_bits(10**12) == MOST_PARTS_BITS


def test_an_index_is_built_once_and_again_where_it_was_left_half_built(tmp_path: Path) -> None:
    built = []

    def make(folder: Path) -> bool:
        built.append(folder)
        return build_ten(folder)

    (tmp_path / "a.building").mkdir()
    (tmp_path / "a.building" / "000.keys").write_bytes(b"half of it")
    for _ in range(2):
        assert len(open_index("a", make, tmp_path)) == 10
    assert len(built) == 1
    assert not (tmp_path / "a.building").exists()


def test_nothing_is_left_of_an_index_that_does_not_fit(tmp_path: Path) -> None:
    def fill_disk(folder: Path) -> bool:
        (folder / "000.keys").write_bytes(b"some of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="No space left"):
        open_index("a", fill_disk, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def age(path: Path, seconds: float) -> None:
    at = time.time() - seconds
    os.utime(path, (at, at))


def test_what_was_not_used_for_a_week_is_removed(tmp_path: Path) -> None:
    old, new, _, other, half = NAMES[0], NAMES[3], *NAMES[2:]
    for name in (old, new):
        open_index(name, build_ten, tmp_path)
    (tmp_path / f"{half}.building").mkdir()
    for name in (old, f"{half}.building"):
        age(tmp_path / name, KEPT_SECONDS + 60)
    open_index(other, build_ten, tmp_path)
    assert list_folders(tmp_path) == {new, other}


def test_nothing_but_indexes_is_removed(tmp_path: Path) -> None:
    strange = {"thesis", "a" * 31, "a" * 33, "a" * 32 + ".old", "A" * 32}
    for name in strange:
        (tmp_path / name).mkdir()
        age(tmp_path / name, 2 * KEPT_SECONDS)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ("d" * 32)).symlink_to(tmp_path / "elsewhere")
    open_index(NAMES[0], build_ten, tmp_path)
    assert list_folders(tmp_path) == strange | {NAMES[0], "elsewhere", "d" * 32}


def test_an_index_that_a_process_is_about_to_use_is_not_removed(tmp_path: Path) -> None:
    open_index(NAMES[0], build_ten, tmp_path)
    age(tmp_path / NAMES[0], KEPT_SECONDS + 60)
    with FileLock(tmp_path / f"{NAMES[0]}.lock"):
        open_index(NAMES[3], build_ten, tmp_path)
        assert list_folders(tmp_path) == {NAMES[0], NAMES[3]}


def test_of_one_output_there_are_two_indexes_at_most(tmp_path: Path) -> None:
    open_index(NAMES[3], build_ten, tmp_path)
    for number, name in enumerate(NAMES[:3]):
        open_index(name, build_ten, tmp_path)
        age(tmp_path / name, 60 - number)
    assert list_folders(tmp_path) == {NAMES[1], NAMES[2], NAMES[3]}


def test_an_index_that_lacks_shards_is_used_and_not_kept(tmp_path: Path) -> None:
    index = open_index(NAMES[0], lambda folder: build_ten(folder) and False, tmp_path)
    assert (index.find(draw(10))[0] != NOT_THERE).all()
    assert list_folders(tmp_path) == set()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-13])


def turn_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


DAMAGES: list[tuple[str, Callable[[Path], object]]] = [
    ("000.keys", cut),
    ("000.keys", Path.unlink),
    ("000.keys", lambda path: path.write_bytes(b"")),
    ("rows", cut),
    ("rows", Path.unlink),
    ("rows", turn_a_bit),
    ("note.json", cut),
    ("note.json", Path.unlink),
    ("note.json", lambda path: path.write_text("[]")),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_a_damaged_index_is_built_anew(name: str, damage: Callable[[Path], object], tmp_path: Path) -> None:
    open_index(NAMES[0], build_ten, tmp_path)
    damage(tmp_path / NAMES[0] / name)
    for built in ([1], []):
        done: list[int] = []
        index = open_index(NAMES[0], lambda folder, done=done: (done.append(1), build_ten(folder))[1], tmp_path)
        assert index.number(*index.find(draw(10))).tolist() == list(range(10))
        assert done == built


def test_a_key_whose_shard_is_not_there_is_not_found(tmp_path: Path) -> None:
    build_index(tmp_path, [make_entries(draw(3), 7, np.arange(3))], np.array([5]), 0)
    assert (KeyIndex(tmp_path).find(draw(3))[0] == NOT_THERE).all()


def test_the_folder_of_indexes_is_the_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = find_own_cache()
    assert folder == find_own_cache()
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o770)
    with pytest.raises(OSError, match=r"nobody else may enter .* got drwxrwx---"):
        find_own_cache()
    folder.rmdir()
    (tmp_path / "home" / NAMES[0]).mkdir(parents=True)
    folder.symlink_to(tmp_path / "home")
    with pytest.raises(OSError, match="got l"):
        find_own_cache()
    folder.unlink()
    folder.write_text("")
    with pytest.raises(OSError, match="got -"):
        find_own_cache()


BUILD = """
import sys, time
from pathlib import Path
from tests.pipelines.reuse.test_index import build, draw
from pipelines.reuse.index_cache import open_index

def make(folder):
    print("building", flush=True)
    sys.stdin.readline()
    return build(folder, draw(10))

open_index("a", make, Path(sys.argv[1]))
print("done", flush=True)
"""


def test_a_builder_that_is_killed_lets_the_next_one_build(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUILD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "building\n"
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as second:
            first.kill()
            out, _ = second.communicate("\n")
    assert out == "building\ndone\n"
    assert len(KeyIndex(tmp_path / "a")) == 10
