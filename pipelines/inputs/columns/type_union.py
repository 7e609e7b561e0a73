"""The type that holds the values of two types, none of them changed; None where there is none.

Plain types only. What is not listed here has no union with anything but itself and the type null.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.types as pat

from pipelines.inputs.columns.plain_types import is_binary, is_list

UNITS = ("s", "ms", "us", "ns")
FLOATS = (pa.float16(), pa.float32(), pa.float64())
SIGNED = (pa.int8(), pa.int16(), pa.int32(), pa.int64())
# Bits of an integer that a float of each width still holds exactly, with its sign.
EXACT_BITS = {16: 11, 32: 24, 64: 53}
# Digits of the widest decimals.
MOST_DIGITS = {128: 38, 256: 76}


def unite_all(types: Iterable[Any]) -> Any:
    """The union of several types; None where there is none.

    Floats come first: they hold whole numbers whose own union is too wide for them.
    """
    ordered = sorted(types, key=_is_whole)
    return reduce(lambda united, type_: None if united is None else unite(united, type_), ordered, pa.null())


def _is_whole(type_: Any) -> bool:
    return _is_whole(type_.value_type) if is_list(type_) else not pat.is_floating(type_)


def unite(one: Any, other: Any) -> Any:
    """The union of two plain types; None where a value of one of them would be changed."""
    if one == other or pat.is_null(other):
        return one
    if pat.is_null(one):
        return other
    for is_kind, unite_kind in UNIONS:
        if is_kind(one) and is_kind(other):
            return unite_kind(one, other)
    return None


def _is_string(type_: Any) -> bool:
    return bool(pat.is_string(type_) or pat.is_large_string(type_))


def _is_number(type_: Any) -> bool:
    return bool(pat.is_integer(type_) or pat.is_floating(type_))


def _unite_binaries(one: Any, other: Any) -> Any:
    return pa.large_binary() if pa.large_binary() in (one, other) else pa.binary()


def _unite_numbers(one: Any, other: Any) -> Any:
    if pat.is_floating(one) and pat.is_floating(other):
        return max(one, other, key=lambda type_: type_.bit_width)
    if pat.is_integer(one) and pat.is_integer(other):
        return _unite_integers(one, other)
    whole, real = (one, other) if pat.is_integer(one) else (other, one)
    bits = whole.bit_width - pat.is_signed_integer(whole)
    return next((f for f in FLOATS if f.bit_width >= real.bit_width and EXACT_BITS[f.bit_width] >= bits), None)


def _unite_integers(one: Any, other: Any) -> Any:
    if pat.is_signed_integer(one) == pat.is_signed_integer(other):
        return max(one, other, key=lambda type_: type_.bit_width)
    signed, unsigned = (one, other) if pat.is_signed_integer(one) else (other, one)
    wanted = max(signed.bit_width, 2 * unsigned.bit_width)
    return next((type_ for type_ in SIGNED if type_.bit_width >= wanted), None)


def _unite_decimals(one: Any, other: Any) -> Any:
    scale = max(one.scale, other.scale)
    precision = max(one.precision - one.scale, other.precision - other.scale) + scale
    if precision <= MOST_DIGITS[128]:
        return pa.decimal128(precision, scale)
    return pa.decimal256(precision, scale) if precision <= MOST_DIGITS[256] else None


def _unite_times(one: Any, other: Any) -> Any:
    unit = _finer(one, other)
    return pa.time32(unit) if unit in UNITS[:2] else pa.time64(unit)


def _unite_timestamps(one: Any, other: Any) -> Any:
    return pa.timestamp(_finer(one, other), one.tz) if one.tz == other.tz and _are_near(one, other) else None


def _unite_durations(one: Any, other: Any) -> Any:
    return pa.duration(_finer(one, other)) if _are_near(one, other) else None


def _are_near(one: Any, other: Any) -> bool:
    """Nanoseconds end in 2262, where other units hold the year 9999, and more."""
    return bool((one.unit == "ns") == (other.unit == "ns"))


def _finer(one: Any, other: Any) -> str:
    return UNITS[max(UNITS.index(one.unit), UNITS.index(other.unit))]


def _unite_lists(one: Any, other: Any) -> Any:
    """Vectors of two lengths are lists, none of which is lost."""
    value = unite(one.value_type, other.value_type)
    if value is None:
        return None
    if pat.is_fixed_size_list(one) and pat.is_fixed_size_list(other) and one.list_size == other.list_size:
        return pa.list_(value, one.list_size)
    return pa.large_list(value) if pat.is_large_list(one) or pat.is_large_list(other) else pa.list_(value)


def _unite_structs(one: Any, other: Any) -> Any:
    """All fields by name, in the order in which they are met; structs without any in common are two things."""
    parts = [{part.name: part.type for part in type_} for type_ in (one, other)]
    if any(len(found) < type_.num_fields for found, type_ in zip(parts, (one, other), strict=True)):
        return None  # two fields of one name
    if all(parts) and not parts[0].keys() & parts[1].keys():
        return None
    united = {name: unite(*(found.get(name, pa.null()) for found in parts)) for name in parts[0] | parts[1]}
    return None if None in united.values() else pa.struct(list(united.items()))


def _unite_maps(one: Any, other: Any) -> Any:
    key, item = unite(one.key_type, other.key_type), unite(one.item_type, other.item_type)
    return None if key is None or item is None else pa.map_(key, item)


UNIONS: tuple[tuple[Callable[[Any], bool], Callable[[Any, Any], Any]], ...] = (
    (_is_string, lambda one, other: pa.large_string()),
    (is_binary, _unite_binaries),
    (_is_number, _unite_numbers),
    (pat.is_decimal, _unite_decimals),
    (pat.is_date, lambda one, other: pa.date32()),
    (pat.is_time, _unite_times),
    (pat.is_timestamp, _unite_timestamps),
    (pat.is_duration, _unite_durations),
    (is_list, _unite_lists),
    (pat.is_struct, _unite_structs),
    (pat.is_map, _unite_maps),
)
