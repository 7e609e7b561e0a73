"""Standard streams that lead nowhere or know no UTF-8, and a working folder that is gone."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO

from t5enc.errors import ConfigError, T5encError


class LossyFile(io.FileIO):
    """A file that drops what it cannot write: a terminal that was closed, a full disk, a pipe that nobody reads."""

    def write(self, data: Any, /) -> int:
        """How much was written, or dropped."""
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def open_lossy(number: int, encoding: str) -> TextIO:
    """A stream to a file descriptor for what is said by the way: no work ends because it could not be said."""
    raw = io.BufferedWriter(LossyFile(number, "w", closefd=False))
    return io.TextIOWrapper(raw, encoding, errors="backslashreplace", line_buffering=True)


def speak_utf8() -> None:
    """Begin anew under a locale without UTF-8 (cron, Slurm, old images), where names of files are no text."""
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"PYTHONUTF8": "1"})


def open_streams() -> None:
    """Lead standard streams that are closed to nowhere: files that are opened later would get their numbers.

    What a stream has no sign for is shown by its code, and what cannot be said on standard error is dropped.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, mode, encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if isinstance(sys.stderr, io.TextIOWrapper) and sys.stderr is sys.__stderr__:
        sys.stderr = open_lossy(2, sys.stderr.encoding)


def check_working_folder() -> None:
    """ConfigError where it was deleted: relative paths, and Ray's processes, have nowhere to begin."""
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigError(f"expected a working folder that exists, got {error.strerror}: change to another") from error


def is_lost_output(error: OSError) -> bool:
    """Whether it is of writing to a stream, as `print` raises it: such an error names no file."""
    return error.filename is None and not isinstance(error, ConnectionError)


def explain_lost_output(error: OSError) -> T5encError:
    """What was to be shown could not be: the disk of standard output is full, say."""
    return T5encError(f"standard output cannot be written: {error.strerror or error}")
