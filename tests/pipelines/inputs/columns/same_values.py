"""Whether values that came out are those that went in, judged by Python alone."""

from __future__ import annotations

import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

# A number may be of a wider type, a moment of a finer one; a flag is no number, a day no moment, a text no bytes.
KINDS: tuple[tuple[type, ...], ...] = (
    (bool,),
    (int, float),
    (str,),
    (bytes, UUID),
    (Decimal,),
    (datetime,),
    (date,),
    (time,),
    (timedelta,),
    (list, tuple),
    (dict,),
)


def is_same(found: Any, wanted: Any) -> bool:
    """Kind and value, through lists and structs; a field or a value that was not there may be null."""
    if found is None or wanted is None:
        return found is wanted
    if kind_of(found) != kind_of(wanted):
        return False
    if isinstance(wanted, dict):
        names = found.keys() | wanted.keys()
        return all(is_same(found.get(name), wanted.get(name)) for name in names)
    if isinstance(wanted, list | tuple):
        return len(found) == len(wanted) and all(map(is_same, found, wanted))
    if isinstance(wanted, bytes | UUID):
        return bytes_of(found) == bytes_of(wanted)
    if isinstance(wanted, float):
        return is_same_number(float(found), wanted)
    if isinstance(wanted, datetime):
        return bool(found == wanted and str(found.tzinfo) == str(wanted.tzinfo))
    return bool(found == wanted)


def kind_of(value: Any) -> tuple[type, ...]:
    return next(kind for kind in KINDS if isinstance(value, kind))


def bytes_of(value: bytes | UUID) -> bytes:
    return value.bytes if isinstance(value, UUID) else value


def is_same_number(found: float, wanted: float) -> bool:
    """To the sign of zero; one that is not is like another."""
    if math.isnan(wanted):
        return math.isnan(found)
    return found == wanted and math.copysign(1, found) == math.copysign(1, wanted)
