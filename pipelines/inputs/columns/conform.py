"""Values of a column in the type that is kept: the same values, or an error that names the first that would change.

Arrow's own "safe" cast is not trusted: it takes "0012" for 12, 7 for True, 100000.0 for the infinity of half floats,
a moment for its day, and drops fields of structs. What is cast is cast back, and must be what it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from math import isfinite
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat
from numpy.typing import NDArray

from pipelines.inputs.columns.casts import may_cast
from pipelines.inputs.columns.plain_types import is_list, plain_type
from pipelines.inputs.sources import SourceFile
from t5enc.errors import SourceError

SHOWN = 80


class ChangedValueError(SourceError):
    """A value of a file that the kept type does not hold."""


class _Changed(Exception):
    """A value that the kept type does not hold."""


def kept_column(batch: Any, field: Any, file: SourceFile) -> Any:
    """One kept column of a record batch in its kept type: from the file, its path, or null in every row."""
    index = batch.schema.get_field_index(field.name)
    if index >= 0:
        return conform(batch.column(index), field, file)
    value = dict(file.partitions).get(field.name)
    if value is None:
        return pa.nulls(len(batch), field.type)
    return conform(pa.repeat(pa.scalar(value, pa.string()), len(batch)), field, file)


def conform(values: Any, field: Any, file: SourceFile) -> Any:
    """An array in a field's plain type; ChangedValueError names the column, and a value that would be another."""
    try:
        return _fit(values, field.type)
    except (_Changed, pa.ArrowException) as error:
        found = plain_type(values.type)
        raise ChangedValueError(
            f"{file.source}: column {field.name!r}: expected {found} that is the same as {field.type}, got {error}"
        ) from error


def _fit(values: Any, type_: Any) -> Any:
    if isinstance(values, pa.ExtensionArray) and values.type != type_:
        values = values.storage
    found = values.type
    if found == type_:
        return values
    if values.null_count == len(values):
        return pa.nulls(len(values), type_)
    if pat.is_dictionary(found):
        return _fit(values.dictionary_decode(), type_)
    if pat.is_struct(found) and pat.is_struct(type_):
        return _fit_struct(values, type_)
    if pat.is_map(found) and pat.is_map(type_):
        return _fit_map(values, type_)
    if _is_any_list(found) and is_list(type_):
        return _fit_list(values, type_)
    return _cast(values, type_)


def _is_any_list(type_: Any) -> bool:
    return bool(is_list(type_) or pat.is_list_view(type_) or pat.is_large_list_view(type_))


def _fit_struct(values: Any, type_: Any) -> Any:
    """Fields by name: those that lack are null, those that would be lost are no more than null.

    Where several have one name, all go by place.
    """
    names = [part.name for part in values.type]
    kept = [part.name for part in type_]
    if len(set(names)) < len(names) or len(set(kept)) < len(kept):
        return _fit_places(values, type_, is_same=names == kept)
    parts = dict(zip(names, values.flatten(), strict=True))
    for name in names:
        if name not in kept and parts[name].null_count < len(values):
            raise _Changed(f"a field {name!r} besides")
    children = [_fit(parts[p.name], p.type) if p.name in parts else pa.nulls(len(values), p.type) for p in type_]
    if not children:
        return pa.array([None if null else {} for null in values.is_null().to_pylist()], type_)
    return pa.StructArray.from_arrays(children, fields=list(type_), mask=values.is_null())


def _fit_places(values: Any, type_: Any, *, is_same: bool) -> Any:
    if not is_same:
        raise _Changed(f"{values.type}, where several fields have one name")
    children = [_fit(part, field.type) for part, field in zip(values.flatten(), type_, strict=True)]
    return pa.StructArray.from_arrays(children, fields=list(type_), mask=values.is_null())


def _fit_map(values: Any, type_: Any) -> Any:
    """Its offsets may point anywhere, also where it is null: each entry is taken by its place."""
    starts = values.offsets.to_numpy().astype(np.int64)
    lengths = np.where(_nulls(values), 0, np.diff(starts))
    offsets = _offsets(lengths)
    places = pa.array(np.repeat(starts[:-1] - offsets[:-1], lengths) + np.arange(offsets[-1]))
    keys, items = _fit(values.keys.take(places), type_.key_type), _fit(values.items.take(places), type_.item_type)
    return pa.MapArray.from_arrays(pa.array(offsets.astype(np.int32)), keys, items, type_, mask=values.is_null())


def _fit_list(values: Any, type_: Any) -> Any:
    lengths = pc.list_value_length(values).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    items = _fit(values.flatten(), type_.value_type)
    if pat.is_fixed_size_list(type_):
        return _fit_vectors(values, lengths, items, type_)
    make, width = (pa.LargeListArray, np.int64) if pat.is_large_list(type_) else (pa.ListArray, np.int32)
    return make.from_arrays(pa.array(_offsets(lengths).astype(width)), items, type=type_, mask=values.is_null())


def _fit_vectors(values: Any, lengths: NDArray[np.int64], items: Any, type_: Any) -> Any:
    is_null = _nulls(values)
    others = lengths[~is_null & (lengths != type_.list_size)]
    if len(others):
        raise _Changed(f"a list of {others[0]}")
    # A null vector takes as much room as any other.
    places = np.where(np.repeat(is_null, type_.list_size), -1, 0)
    places[places == 0] = np.arange(len(items))
    items = items.take(pa.array(places, mask=places < 0))
    return pa.FixedSizeListArray.from_arrays(items, type=type_, mask=values.is_null())


def _nulls(values: Any) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = values.is_null().to_numpy(zero_copy_only=False)
    return found


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def _cast(values: Any, type_: Any) -> Any:
    """A cast that is undone by casting back."""
    if not may_cast(values.type, type_):
        raise _Changed(f"{values.type}, of which none can be {type_}")
    for value in _find_changed(values, type_):
        raise _Changed(_show(value))
    return values.cast(type_)


def _find_changed(values: Any, type_: Any) -> Iterator[Any]:
    """Values that a cast changes, or refuses."""
    if not _survives(values, type_):
        alone = (values.slice(place, 1) for place in range(len(values)))
        yield from (value[0] for value in alone if not _survives(value, type_))


def _survives(values: Any, type_: Any) -> bool:
    try:
        cast = values.cast(type_)
        if pat.is_decimal(values.type) and pat.is_floating(type_):
            return _is_exact(cast, values)
        return _is_same(cast.cast(values.type), values)
    except pa.ArrowInvalid:
        return False


def _is_same(one: Any, other: Any) -> bool:
    if pat.is_floating(one.type):
        first, second = (values.drop_null().to_numpy(zero_copy_only=False) for values in (one, other))
        same_signs = np.isnan(second) | (np.signbit(first) == np.signbit(second))
        return np.array_equal(first, second, equal_nan=True) and bool(same_signs.all())
    return bool(one.equals(other))


def _is_exact(floats: Any, decimals: Any) -> bool:
    """Cast back, a float is rounded to the digits of the decimal: here it is not."""
    pairs = zip(floats.drop_null().to_pylist(), decimals.drop_null().to_pylist(), strict=True)
    return all(isfinite(real) and Decimal(float(real)) == exact for real, exact in pairs)


def _show(value: Any) -> str:
    try:
        text = repr(value.as_py())
    except (OverflowError, ValueError):  # a moment beyond the years of Python
        text = str(value.cast(pa.int64()))
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
