"""The exceptions of t5enc, and its exit codes. An exception says what was wrong, where, what was expected and found.

T5encError
├── ConfigError        an option or a model's configuration          exit code 2
├── CheckpointError    weights or tokenizer files of a model         exit code 2
├── InputError         a text or token list given to an encoder      exit code 2
│   ├── TooLongError       it has more tokens than may be encoded
│   └── UnknownRowError    no row has what was looked up        (a KeyError, too)
├── SourceError        captions to be read (files, columns)          exit code 4
├── OutputError        the folder that embeddings are written to     exit code 2
│   ├── JobMismatchError   it holds the output of another job
│   └── UnfinishedError    it is read before its job is finished
├── PrecisionError     activations left the range of the dtype       exit code 1
├── OverloadedError    a queue is full: the same call works later    exit code 1
├── ServiceError       a server gave no answer that can be used      exit code 1
└── DriverError        the process that runs a job was lost          exit code 5
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from enum import IntEnum


class ExitCode(IntEnum):
    """What commands of t5enc end with; 130 is Ctrl-C, as in every shell."""

    DONE = 0
    FAILED = 1
    REFUSED = 2
    """An option, a model or an output that cannot be used as asked."""
    CAPTIONS_DIED = 3
    """Every row is there, but some captions killed the encoder."""
    INPUTS_UNREADABLE = 4
    DRIVER_LOST = 5


def show_invisible(text: str, *, keep: str = "") -> str:
    """A text with what nobody sees in it as escapes, but for spaces and what is to be kept.

    That is control characters, marks without width, spaces of other kinds, and bytes that are no UTF-8.
    """
    return "".join(c if c == " " or c in keep or not _is_invisible(c) else _escape(c) for c in text)


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character)[0] in "CZ"


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


class T5encError(Exception):
    """Whatever t5enc raises on purpose; `exit_code` is what the command line ends with."""

    exit_code: ExitCode = ExitCode.FAILED


class ConfigError(T5encError, ValueError):
    """An option, or a field of a model's configuration, that cannot be honoured."""

    exit_code = ExitCode.REFUSED


class CheckpointError(T5encError):
    """Weights or tokenizer files that are missing, unexpected, or of the wrong shape."""

    exit_code = ExitCode.REFUSED


class InputError(T5encError, ValueError):
    """A text or token list that cannot be encoded as given."""

    exit_code = ExitCode.REFUSED


class TooLongError(InputError):
    """A text of `tokens` tokens (end token included) at place `index`, where `limit` are the most."""

    def __init__(self, index: int, *, tokens: int, limit: int) -> None:
        super().__init__(f"texts[{index}]: expected at most {limit} tokens, got {tokens}")
        self.index = index
        self.tokens = tokens
        self.limit = limit


class UnknownRowError(InputError, KeyError):
    """No row of a dataset has the key, value or caption that was looked up."""

    __str__ = Exception.__str__  # KeyError would show the message as Python writes a text


class SourceError(T5encError):
    """Captions that cannot be read: a missing file, an absent column, a damaged Parquet file."""

    exit_code = ExitCode.INPUTS_UNREADABLE


class OutputError(T5encError):
    """An output folder that cannot be written or read as asked."""

    exit_code = ExitCode.REFUSED


class JobMismatchError(OutputError):
    """The output folder belongs to another job; `differences` maps field to (there, here)."""

    def __init__(self, message: str, differences: Mapping[str, tuple[object, object]]) -> None:
        super().__init__(message)
        self.differences = dict(differences)


class UnfinishedError(OutputError):
    """The job that writes this folder has not finished."""


class PrecisionError(T5encError):
    """Texts whose activations left the dtype's range; `failed` maps their index to the reason."""

    def __init__(self, failed: Mapping[int, str]) -> None:
        first = ", ".join(f"texts[{i}]: {reason}" for i, reason in list(failed.items())[:3])
        more = f" (and {len(failed) - 3} more)" if len(failed) > 3 else ""
        super().__init__(f"{len(failed)} text(s) could not be encoded: {first}{more}")
        self.failed = dict(failed)


class OverloadedError(T5encError):
    """More work than a queue takes; nothing was queued, and after `retry_after` seconds there may be room."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ServiceError(T5encError):
    """A server that gave no usable answer: it cannot be reached, broke off, or answered something else."""


class DriverError(T5encError):
    """The process that runs a job ended without a word; running the same command resumes."""

    exit_code = ExitCode.DRIVER_LOST
