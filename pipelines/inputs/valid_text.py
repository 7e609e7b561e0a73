"""Kept texts that are not UTF-8, which Arrow takes on trust: no reader opens a file that holds one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat


def mend_texts(table: pa.Table) -> tuple[pa.Table, int]:
    """The table with U+FFFD for bytes that are not UTF-8, at any depth of its columns; and how many texts had some."""
    total = 0
    for place, field in enumerate(table.schema):
        if _is_sound(table.column(place)):
            continue
        chunks = [_mend(chunk) for chunk in table.column(place).chunks]
        total += sum(count for _, count in chunks)
        table = table.set_column(place, field, pa.chunked_array([chunk for chunk, _ in chunks], field.type))
    return table, total


def _is_sound(column: Any) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _mend(array: Any) -> tuple[Any, int]:
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        storage, count = _mend(array.storage)
        return pa.ExtensionArray.from_storage(kind, storage), count
    if pat.is_string(kind) or pat.is_large_string(kind):
        return _mend_texts(array)
    if pat.is_struct(kind):
        return _mend_struct(array)
    if pat.is_map(kind):
        (keys, keys_mended), (items, items_mended) = _mend(_inner(array, array.keys)), _mend(_inner(array, array.items))
        mended = pa.MapArray.from_arrays(_offsets(array), keys, items, type=kind, mask=_mask(array))
        return mended, keys_mended + items_mended
    if pat.is_fixed_size_list(kind):
        values, count = _mend(array.values.slice(array.offset * kind.list_size, len(array) * kind.list_size))
        return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=_mask(array)), count
    if pat.is_list(kind) or pat.is_large_list(kind):
        values, count = _mend(_inner(array, array.values))
        lists = pa.ListArray if pat.is_list(kind) else pa.LargeListArray
        return lists.from_arrays(_offsets(array), values, type=kind, mask=_mask(array)), count
    return array, 0


def _mend_texts(array: Any) -> tuple[Any, int]:
    raw = array.cast(pa.large_binary()).to_pylist()
    texts = [None if value is None else value.decode(errors="replace") for value in raw]
    count = sum(value is not None and value != text.encode() for value, text in zip(raw, texts, strict=True) if text)
    return pa.array(texts, array.type), count


def _mend_struct(array: Any) -> tuple[Any, int]:
    parts = [_mend(array.field(place)) for place in range(array.type.num_fields)]
    children = [child for child, _ in parts]
    mended = pa.StructArray.from_arrays(children, fields=list(array.type), mask=_mask(array))
    return mended, sum(count for _, count in parts)


def _inner(array: Any, values: Any) -> Any:
    """Those of all values that are in the array's own lists: it may be a slice."""
    offsets = np.asarray(array.offsets)
    return values.slice(offsets[0], offsets[-1] - offsets[0])


def _offsets(array: Any) -> Any:
    """Where lists begin and end in the array's own values, without a mark for nulls."""
    offsets = np.asarray(array.offsets)
    return pa.array(offsets - offsets[0], array.offsets.type)


def _mask(array: Any) -> Any:
    return pc.is_null(array)
