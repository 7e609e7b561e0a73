"""Processes of one cluster among all of this machine, and their end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psutil

from tests.cluster.patience import wait_until


def list_processes(name: str, value: str) -> list[psutil.Process]:
    """Those that run with this variable in their environment; not those that wrote their title over it."""
    return list(_find(name, value))


def kill_processes(name: str, value: str) -> None:
    """End them with their children: when this returns, none is left that could write a file."""
    while found := list_processes(name, value):
        for process in [*found]:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += process.children(recursive=True)
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        # Not `psutil.wait_procs`: it would take the exit code of a child that somebody else waits for.
        wait_until(lambda found=found: not any(map(_is_alive, found)), f"still there: {found}")


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _find(name: str, value: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(name) == value:
                yield process
