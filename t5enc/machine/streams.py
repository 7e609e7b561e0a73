"""Standard streams that lead nowhere, and a working folder that is gone."""

from __future__ import annotations

import os
import sys

from t5enc.errors import ConfigError, T5encError


def open_streams() -> None:
    """Lead standard streams that are closed to nowhere: files that are opened later would get their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, mode, encoding="utf-8"))  # noqa: SIM115


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
