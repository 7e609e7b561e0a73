"""fsspec's SFTP filesystem as it is, where a folder stands in for the server and a few functions for paramiko."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock


class Channel:
    """As much of paramiko's SFTPClient as fsspec calls. A server's refusal has no errno but that of what is missing."""

    def __init__(self) -> None:
        self.stat = os.stat
        self.rmdir = os.rmdir
        self.remove = os.remove
        self.posix_rename = os.replace

    def listdir_iter(self, path: str) -> Iterator[Any]:
        for entry in Path(path).iterdir():
            found = entry.stat()
            times = {"st_atime": found.st_atime, "st_mtime": found.st_mtime, "st_uid": 0, "st_gid": 0}
            yield SimpleNamespace(filename=entry.name, st_mode=found.st_mode, st_size=found.st_size, **times)

    def mkdir(self, path: str, mode: int) -> None:
        try:
            Path(path).mkdir(mode)
        except FileExistsError:
            raise OSError("Failure") from None

    def open(self, path: str, mode: str, bufsize: int) -> Any:
        return open(path, mode)


class Client:
    """A connection that is always made."""

    def __init__(self) -> None:
        self.set_missing_host_key_policy = lambda policy: None
        self.connect = lambda host, **options: None
        self.open_sftp = Channel


def make_sftp() -> Any:
    """A filesystem of fsspec's own class, whose server has the files of this machine."""
    paramiko = ModuleType("paramiko")
    for name in ("MissingHostKeyPolicy", "AutoAddPolicy", "RejectPolicy", "WarningPolicy"):
        setattr(paramiko, name, type(name, (), {}))
    paramiko.SSHClient = Client  # type: ignore[attr-defined]
    with mock.patch.dict(sys.modules, {"paramiko": paramiko}):
        sys.modules.pop("fsspec.implementations.sftp", None)
        return import_module("fsspec.implementations.sftp").SFTPFileSystem("server", skip_instance_cache=True)
