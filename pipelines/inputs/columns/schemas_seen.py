"""The schemas that input files have, each once: a hundred thousand files have a handful of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyarrow as pa

from pipelines.inputs.columns.plain_types import holds_binary, plain_field
from pipelines.inputs.sources import SourceFile


def pack_schema(schema: Any) -> bytes:
    """A schema as bytes that compare, without what its writer noted beside it."""
    return bytes(schema.remove_metadata().serialize())


@dataclass(frozen=True, kw_only=True)
class SchemaSeen:
    """A schema, the first file that has it, and how many files and rows do."""

    packed: bytes
    file: SourceFile
    files: int
    rows: int

    @cached_property
    def schema(self) -> Any:
        """As the file has it."""
        return pa.ipc.read_schema(pa.py_buffer(self.packed))

    @cached_property
    def fields(self) -> dict[str, Any]:
        """Plain fields by name; partitions of the path are strings, unless the file has a column of that name."""
        partitions = {key: pa.field(key, pa.string()) for key, _ in self.file.partitions}
        own = {field.name: plain_field(field) for field in self.schema}
        return own | {key: field for key, field in partitions.items() if key not in own}

    @cached_property
    def binary(self) -> frozenset[str]:
        """Columns with bytes of any meaning in them."""
        return frozenset(field.name for field in self.schema if holds_binary(field.type))


class SchemaTally:
    """Counts schemas, in the order in which they are met."""

    def __init__(self) -> None:
        self.seen: dict[tuple[bytes, tuple[str, ...]], SchemaSeen] = {}

    def add(self, packed: bytes, file: SourceFile, rows: int) -> None:
        """One more file."""
        key = packed, tuple(name for name, _ in file.partitions)
        before = self.seen.get(key)
        self.seen[key] = (
            SchemaSeen(packed=packed, file=file, files=1, rows=rows)
            if before is None
            else replace(before, files=before.files + 1, rows=before.rows + rows)
        )

    def telling(self) -> Sequence[SchemaSeen]:
        """Those of files with rows: one without says nothing of types. All, where no file has any."""
        return [seen for seen in self.seen.values() if seen.rows] or list(self.seen.values())


def count_files(seen: Iterable[SchemaSeen]) -> int:
    """Files of these schemas."""
    return sum(one.files for one in seen)
