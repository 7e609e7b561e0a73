"""Compiled kernels at a place that processes share: fetched whole, added once, never changed."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pyarrow.fs as pafs
import pytest
import torch

from t5enc.errors import ConfigError
from t5enc.model import compile_cache
from t5enc.model.compile_cache import SUFFIX, CompileCache, describe_machine, pack, unpack
from tests.pipelines.stores.s3_server import CREDENTIALS, run_s3_server

CPU = torch.device("cpu")
# Compiles one graph, and says what Inductor found in its cache.
START = """
import json, sys
from t5enc import TextEncoder
encoder = TextEncoder.from_pretrained(
    "builtin:tiny", attention="flex", max_length=16, token_budget=16, device="cpu", compile_cache=sys.argv[1]
)
encoder.warm_up()
from torch._dynamo.utils import counters
found = counters["inductor"]
print(json.dumps({"hits": found["fxgraph_cache_hit"], "misses": found["fxgraph_cache_miss"]}))
"""


def compile_into(cache: CompileCache, *paths: str) -> None:
    for path in paths:
        (cache.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (cache.folder / path).write_text(f"what {path} says")


def list_files(cache: CompileCache) -> list[str]:
    return sorted(path.relative_to(cache.folder).as_posix() for path in cache.folder.rglob("*") if path.is_file())


def list_archives(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file())


def test_what_one_process_compiled_another_finds(tmp_path: Path) -> None:
    first, second = CompileCache(str(tmp_path), CPU), CompileCache(str(tmp_path), CPU)
    assert first.pull() == 0
    compile_into(first, "ab/kernel.so", "fxgraph/cd/key/entry", "locks/kernel.lock", "ab/half.tmp12")
    assert first.save()
    assert second.pull() == 1
    assert list_files(second) == ["ab/kernel.so", "fxgraph/cd/key/entry"]
    assert (second.folder / "ab/kernel.so").read_text() == "what ab/kernel.so says"
    assert first.folder != second.folder
    assert second.pull() == 0


def test_what_is_there_is_not_added_again(tmp_path: Path) -> None:
    """Many actors that start at once compile the same, each entry under the same key and a name of its own."""
    first, second = CompileCache(str(tmp_path), CPU), CompileCache(str(tmp_path), CPU)
    compile_into(first, "ab/kernel.so", "fxgraph/cd/key/entry-1")
    compile_into(second, "ab/kernel.so", "fxgraph/cd/key/entry-2")
    assert [first.save(), first.save(), second.save()] == [True, False, False]
    compile_into(second, "ab/another.so")
    assert second.save()
    assert first.pull() == 1
    assert len(list_archives(tmp_path)) == 2
    with tarfile.open(list_archives(tmp_path)[0]) as one, tarfile.open(list_archives(tmp_path)[1]) as other:
        assert not set(one.getnames()) & set(other.getnames())


@pytest.mark.parametrize("looks_first", [False, True])
def test_what_was_compiled_while_another_added_is_added_too(tmp_path: Path, *, looks_first: bool) -> None:
    first, second = CompileCache(str(tmp_path), CPU), CompileCache(str(tmp_path), CPU)
    compile_into(first, "ab/own.so", "ab/shared.so", "fxgraph/cd/own/entry")
    compile_into(second, "ab/shared.so", "fxgraph/cd/shared/entry")
    assert second.save()
    assert first.pull() == 1 or not looks_first
    compile_into(first, "fxgraph/cd/shared/entry-2")
    assert [first.save(), first.save()] == [True, False]
    third = CompileCache(str(tmp_path), CPU)
    assert third.pull() == 2
    assert list_files(third) == ["ab/own.so", "ab/shared.so", "fxgraph/cd/own/entry", "fxgraph/cd/shared/entry"]


def test_the_place_may_be_a_uri(tmp_path: Path) -> None:
    first, second = (CompileCache(f"file://{tmp_path}/deep/cache", CPU) for _ in range(2))
    compile_into(first, "kernel.so")
    assert first.save()
    assert second.pull() == 1


def test_the_place_may_be_on_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("moto.server", reason="needs moto[server]")
    s3 = pytest.importorskip("pyarrow.fs", reason="needs Arrow").S3FileSystem
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with run_s3_server() as address:
        s3(endpoint_override=address, scheme="http", allow_bucket_creation=True).create_dir("kernels")
        place = f"s3://kernels/deep?scheme=http&endpoint_override={address}"
        first, second = CompileCache(place, CPU), CompileCache(place, CPU)
        assert first.pull() == 0
        compile_into(first, "ab/kernel.so")
        assert [first.save(), first.save(), second.save()] == [True, False, False]
        assert list_files(second) == ["ab/kernel.so"]


def test_other_machines_have_other_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = CompileCache(str(tmp_path), CPU)
    compile_into(first, "kernel.so")
    first.save()
    monkeypatch.setattr(compile_cache, "_read_cpu_flags", lambda: ["sse"])
    assert CompileCache(str(tmp_path), CPU).pull() == 0


def test_a_name_for_a_machine_says_what_it_is_of(monkeypatch: pytest.MonkeyPatch) -> None:
    name = describe_machine(CPU)
    assert name.startswith(f"torch-{torch.__version__}-cpu-")
    assert name == describe_machine(CPU)
    monkeypatch.setattr(torch, "__version__", "9.9")
    assert describe_machine(CPU) != name


def test_a_damaged_archive_is_named_and_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = CompileCache(str(tmp_path), CPU)
    compile_into(first, "kernel.so")
    first.save()
    (archive,) = list_archives(tmp_path)
    archive.write_bytes(archive.read_bytes()[:40])
    second = CompileCache(str(tmp_path), CPU)
    assert [second.pull(), second.pull()] == [0, 0]
    (said,) = caplog.messages
    assert f"compile_cache: {archive.name}: expected an archive of kernels" in said
    assert list_files(second) == []
    compile_into(second, "kernel.so")
    assert second.save(), "it takes the damaged one's place"
    assert CompileCache(str(tmp_path), CPU).pull() == 1


@pytest.mark.parametrize("method", ["open_output_stream", "create_dir", "move"])
def test_a_place_that_takes_nothing_is_told_once_and_ends_nothing(
    tmp_path: Path, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = CompileCache(str(tmp_path), CPU)
    working, cache.filesystem = cache.filesystem, Refusing(method)
    compile_into(cache, "kernel.so")
    assert [cache.save(), cache.save()] == [False, False]
    (said,) = caplog.messages
    assert "cannot be added to, so kernels are compiled: [Errno 28] No space left on device" in said
    assert list_archives(tmp_path) == []
    cache.filesystem = working
    assert cache.save(), "what was not added is still to be"


@pytest.mark.parametrize("method", ["get_file_info", "open_input_stream"])
def test_a_place_that_gives_nothing_is_a_miss(tmp_path: Path, method: str, caplog: pytest.LogCaptureFixture) -> None:
    first, second = CompileCache(str(tmp_path), CPU), CompileCache(str(tmp_path), CPU)
    compile_into(first, "kernel.so")
    first.save()
    working, second.filesystem = second.filesystem, Refusing(method)
    assert [second.pull(), second.pull()] == [0, 0]
    assert len(caplog.messages) == 1
    second.filesystem = working
    assert second.pull() == 1


class Refusing(pafs.LocalFileSystem):  # type: ignore[misc]
    """A local filesystem of which one method fails."""

    def __new__(cls, _: str) -> Refusing:
        made: Refusing = super().__new__(cls)
        return made

    def __init__(self, method: str) -> None:
        super().__init__()
        setattr(self, method, self._refuse)

    def _refuse(self, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_processes_that_compile_the_same_at_once_leave_one_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each looks before any other has written."""
    caches = [CompileCache(str(tmp_path), CPU) for _ in range(3)]
    for number, cache in enumerate(caches):
        compile_into(cache, "ab/kernel.so", f"fxgraph/cd/key/entry-{number}")
        monkeypatch.setattr(cache, "pull", lambda: 0)
        assert cache.save()
    assert len(list_archives(tmp_path)) == 1
    assert CompileCache(str(tmp_path), CPU).pull() == 1


def test_an_archive_cannot_write_outside_the_folder(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../outside"), io.BytesIO())
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="expected an archive of kernels"):
        unpack(buffer.getvalue(), tmp_path / "folder", "bad")
    assert not (tmp_path / "outside").exists()


def test_what_is_packed_comes_out_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "deep" / "kernel.so").write_bytes(bytes(range(256)))
    (tmp_path / "b").mkdir()
    assert unpack(pack(tmp_path / "a", ["deep/kernel.so"]), tmp_path / "b", "it") == ["deep/kernel.so"]
    assert (tmp_path / "b" / "deep" / "kernel.so").read_bytes() == bytes(range(256))


@pytest.mark.long
def test_the_second_process_compiles_nothing(tmp_path: Path, compiler: None) -> None:
    runs = []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TORCHINDUCTOR")}
    for _ in range(2):
        command = [sys.executable, "-c", START, str(tmp_path / "cache")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        runs.append(json.loads(done.stdout.splitlines()[-1]))
        (archive,) = list_archives(tmp_path / "cache")
        assert archive.name.endswith(SUFFIX)
    assert runs == [{"hits": 0, "misses": 1}, {"hits": 1, "misses": 0}]
