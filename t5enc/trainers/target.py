"""The folder that an export writes to, and which of the files that are there count."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from t5enc.errors import OutputError
from t5enc.trainers.record import Record

# `unsure` is an export's own file that may be torn or old, `foreign` somebody else's.
State = Literal["missing", "whole", "unsure", "foreign"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A folder, and the record of the export in it."""

    folder: Path
    record: Record
    overwrite: bool = False

    def find_key(self, name: str) -> str:
        """What two names have in common that are one file here: on some disks those that differ in case alone."""
        return unicodedata.normalize("NFC", name).casefold() if self.record.folds_case else name

    def look(self, name: str, size: int | None, part: str) -> State:
        """What a file is that should have `size` bytes (None: nobody knows), and is of that part of the output."""
        try:
            found = os.stat(self.folder / name)
        except (FileNotFoundError, NotADirectoryError):
            return "missing"
        except OSError as error:
            raise OutputError(f"{self.folder / name}: expected a place that can be looked at, got {error}") from error
        if not self.record.owns(found.st_mtime_ns):
            return "foreign"
        if found.st_mtime_ns < max(self.record.trusted, self.record.parts[part]):
            return "unsure"
        return "whole" if size in (None, found.st_size) else "foreign"

    def look_into(self, name: str, content: bytes) -> State:
        """What a file is that should have this content."""
        try:
            found = (self.folder / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return "missing"
        except OSError as error:
            raise OutputError(f"{self.folder / name}: expected a file that can be read, got {error}") from error
        if not self.record.owns((self.folder / name).stat().st_mtime_ns):
            return "foreign"
        return "whole" if found == content else "unsure"

    def is_missing(self, name: str, state: State) -> bool:
        """Whether a file in that state is to be written; OutputError for somebody else's, but to `overwrite`."""
        if state == "foreign" and not self.overwrite:
            raise OutputError(f"{self.folder / name}: expected no file, or one of this export; see --overwrite")
        return state != "whole"

    def is_linked(self, name: str, path: str) -> bool:
        """Whether a file is that other one."""
        try:
            return os.path.samefile(self.folder / name, path)
        except OSError:
            return False
