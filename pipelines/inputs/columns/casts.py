"""Types that columns are asked to be kept in: how they are named, and which columns can be cast to them at all.

Whether a value survives is seen when it is read (`conform.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.types as pat

from t5enc.errors import ConfigError

ZONED = re.compile(r"timestamp\[(s|ms|us|ns), *tz=([^\]]+)\]")
DECIMAL = re.compile(r"decimal(128|256)\((\d+), *(\d+)\)")
EXAMPLES = "string, int64, float64, bool, date32, decimal128(10, 2), timestamp[us], timestamp[us, tz=UTC]"


def parse_casts(cast: Mapping[str, str]) -> dict[str, Any]:
    """Arrow types by column; ConfigError for a name that is none."""
    return {column: parse_type(column, name) for column, name in cast.items()}


def parse_type(column: str, name: str) -> Any:
    """A type by Arrow's own name for it, as errors and `t5enc plan` show it; of types without parts only."""
    try:
        if zoned := ZONED.fullmatch(name):
            return pa.timestamp(zoned[1], zoned[2])
        if decimal := DECIMAL.fullmatch(name):
            make = pa.decimal128 if decimal[1] == "128" else pa.decimal256
            return make(int(decimal[2]), int(decimal[3]))
        return pa.type_for_alias(name)
    except (ValueError, pa.ArrowException) as error:
        raise ConfigError(f"cast: {column}: expected a type such as {EXAMPLES}, got {name!r}") from error


def may_cast(found: Any, asked: Any) -> bool:
    """Whether some values of a plain type can be cast; a moment with a zone is not one without."""
    if pat.is_timestamp(found) and pat.is_timestamp(asked) and (found.tz is None) != (asked.tz is None):
        return False
    if pat.is_date(found) and pat.is_timestamp(asked) and asked.tz is not None:
        return False
    try:
        pa.nulls(0, found).cast(asked)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True
