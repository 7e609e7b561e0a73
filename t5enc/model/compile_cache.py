"""Compiled kernels that outlive a process, at a place that all nodes share: a folder or a URI.

Inductor keeps what it compiles in a folder, and finds it there again wherever that folder lies. But a folder on shared
storage is no place for the locks and the half-written files of many processes. So each process works in a folder of
its own, filled from the place when the model is loaded, and whoever compiles something that is not there yet adds it:
as one archive, which appears whole or not at all. Nothing at the place is ever changed, but for a damaged archive.

A place that cannot be read or written, or holds such an archive, is a miss and a warning, never the end of a run.

A cache is code that will run: it belongs where only those can write whom you let run code.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import io
import json
import logging
import os
import platform
import shutil
import tarfile
import tempfile
import uuid
import weakref
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import torch

from t5enc.errors import ConfigError
from t5enc.storage.filesystems import find_filesystem, hide_credentials

logger = logging.getLogger(__name__)

SUFFIX = ".tar.gz"
# Folders of Inductor whose entries are found by the name of the folder they are in, whatever they are called.
KEYED = ("fxgraph", "aotautograd")


class CompileCache:
    """This process's folder of compiled kernels, and the place behind it."""

    def __init__(self, place: str, device: torch.device) -> None:
        self.filesystem, root = find_filesystem(place)
        self.root = f"{root}/{describe_machine(device)}"
        self.folder = Path(tempfile.mkdtemp(prefix="t5enc-compiled-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._pulled: set[str] = set()
        self._known: set[str] = set()
        self._told: set[str] = set()

    def use(self) -> None:
        """Fetch what is there, and have Inductor look there."""
        self.pull()
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(self.folder)

    def pull(self) -> int:
        """Unpack archives that were not here yet; their number, without those that cannot be had."""
        return sum(self._pull_one(name) for name in sorted(self._list_archives() - self._pulled))

    def _list_archives(self) -> set[str]:
        try:
            infos = self.filesystem.get_file_info(pafs.FileSelector(self.root, allow_not_found=True))
        except Exception as error:
            self._tell("cannot be listed", error)
            return set()
        return {info.base_name for info in infos if info.base_name.endswith(SUFFIX)}

    def _pull_one(self, name: str) -> bool:
        try:
            with self.filesystem.open_input_stream(f"{self.root}/{name}", compression=None) as stream:
                data = stream.read()
        except Exception as error:
            self._tell("cannot be read", error)
            return False
        self._pulled.add(name)
        try:
            self._known |= {_identify(path) for path in unpack(data, self.folder, name)}
        except ConfigError as error:
            self._tell(f"{name} is passed over", error)
            return False
        return True

    def save(self) -> bool:
        """Add what this process compiled and nobody has added meanwhile; whether there was such a thing.

        What cannot be added is tried again when more is compiled.
        """
        mine = self._list_files()
        self.pull()
        new = [path for path in mine if _identify(path) not in self._known]
        if not new:
            return False
        name = name_archive(new)
        try:
            self._publish(name, pack(self.folder, new))
        except Exception as error:
            self._tell("cannot be added to", error)
            return False
        self._known |= {_identify(path) for path in new}
        self._pulled.add(name)
        return True

    def _list_files(self) -> list[str]:
        """Paths in the folder, but for locks and files that are still being written."""
        paths = (path for path in sorted(self.folder.rglob("*")) if path.is_file() and path.suffix != ".lock")
        return [path.relative_to(self.folder).as_posix() for path in paths if "tmp" not in path.suffix]

    def _publish(self, name: str, data: bytes) -> None:
        """On object stores one write is one put; in a folder the archive gets its name when it is whole."""
        is_folder = isinstance(self.filesystem, pafs.LocalFileSystem)
        if is_folder:
            self.filesystem.create_dir(self.root, recursive=True)
        written = f"{self.root}/{name}.{uuid.uuid4().hex}.part" if is_folder else f"{self.root}/{name}"
        try:
            with self.filesystem.open_output_stream(written, compression=None) as stream:
                stream.write(data)
            if is_folder:
                self.filesystem.move(written, f"{self.root}/{name}")
        except OSError:
            with contextlib.suppress(OSError):
                self.filesystem.delete_file(written)
            raise

    def _tell(self, what: str, error: Exception) -> None:
        """Warn of it, once in this process."""
        if what not in self._told:
            self._told.add(what)
            logger.warning(hide_credentials(f"compile_cache: {self.root}: {what}, so kernels are compiled: {error}"))


@functools.cache
def open_cache(place: str, device: torch.device) -> CompileCache:
    """The one cache of this process for a place, in use; models of one process share it."""
    cache = CompileCache(place, device)
    cache.use()
    return cache


def describe_machine(device: torch.device) -> str:
    """A name for machines that can run each other's kernels: PyTorch, Python, device, and the CPU's abilities."""
    facts: dict[str, Any] = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version_tuple()[:2],
        "machine": platform.machine(),
        "cpu": _read_cpu_flags(),
    }
    if device.type == "cuda":
        facts["card"] = (torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device))
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return f"torch-{torch.__version__}-{device.type}-{digest[:12]}"


def _read_cpu_flags() -> list[str]:
    """What kernels for the CPU may use; compiled code for a card is launched by such kernels, too."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return [platform.processor()]
    flags = [line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))]
    return sorted(flags[0]) if flags else [platform.processor()]


def _identify(path: str) -> str:
    """What makes a cached file the same as another."""
    return path.rpartition("/")[0] if path.partition("/")[0] in KEYED else path


def name_archive(paths: Sequence[str]) -> str:
    """The archive of these files: actors that compile the same at once write one, not one each."""
    keys = sorted({_identify(path) for path in paths})
    return f"{hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:32]}{SUFFIX}"


def pack(folder: Path, paths: list[str]) -> bytes:
    """An archive of these files of a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path in paths:
            archive.add(folder / path, arcname=path)
    return buffer.getvalue()


def unpack(data: bytes, folder: Path, name: str) -> list[str]:
    """Put an archive's files into a folder, and name them; ConfigError where it is damaged or leads elsewhere."""
    try:
        whole = gzip.decompress(data)  # before the first file: half of one would be found, and run
        with tarfile.open(fileobj=io.BytesIO(whole), mode="r:") as archive:
            archive.extractall(folder, filter="data")
            return archive.getnames()
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise ConfigError(f"compile_cache: {name}: expected an archive of kernels, got: {error}; delete it") from error
