"""The folder that an export writes to, and which of the files that are there count."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from t5enc.trainers.record import Record

# `unsure` is an export's own file that may be torn, `foreign` somebody else's.
State = Literal["missing", "whole", "unsure", "foreign"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A folder, and the record of the export in it."""

    folder: Path
    record: Record
    overwrite: bool = False

    def look(self, name: str, size: int | None) -> State:
        """What a file is that should have `size` bytes (None: nobody knows)."""
        try:
            found = os.stat(self.folder / name)
        except (FileNotFoundError, NotADirectoryError):
            return "missing"
        if found.st_mtime_ns < self.record.begun:
            return "foreign"
        if found.st_mtime_ns < self.record.trusted:
            return "unsure"
        return "whole" if size in (None, found.st_size) else "foreign"

    def is_older(self, name: str, other: int | None) -> bool:
        """Whether a file that is there was written before `other`, in nanoseconds; None: nobody knows."""
        return other is not None and os.stat(self.folder / name).st_mtime_ns < other

    def is_linked(self, name: str, path: str) -> bool:
        """Whether a file is that other one."""
        try:
            return os.path.samefile(self.folder / name, path)
        except OSError:
            return False
