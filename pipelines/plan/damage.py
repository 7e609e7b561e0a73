"""Damaged metadata of columns, told before it is looked at: pyarrow ends the process there, without an exception."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ONLY_THE_FOOTER = "only the footer is looked at"
LONGEST = 1 << 62


class _NoPages(io.RawIOBase):
    """A file as long as any, of which nothing can be read."""

    place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        self.place = place if whence == io.SEEK_SET else LONGEST
        return self.place

    def tell(self) -> int:
        return self.place

    def read(self, size: int = -1) -> bytes:
        raise OSError(ONLY_THE_FOOTER)


def check_group(metadata: Any, group: int) -> None:
    """OSError where what a footer says of a row group's columns cannot be read.

    Arrow's reader of rows looks at all of it before it reads a page, and tells what is wrong with it.
    """
    parquet = pq.ParquetFile(pa.PythonFile(_NoPages(), mode="r"), metadata=metadata, buffer_size=1, pre_buffer=False)
    try:
        next(parquet.iter_batches(row_groups=[group], use_threads=False), None)
    except (pa.ArrowException, OSError) as error:
        if ONLY_THE_FOOTER not in str(error):
            raise OSError(f"row group {group}: {error}") from error
