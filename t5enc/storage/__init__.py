"""Embeddings in Parquet: the schema of an output row, and the codecs of its bytes.

Names of the schema load on first use: the command line lists the codecs, and neither torch nor pyarrow is loaded for
that.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from t5enc.storage.codecs import (
    CODECS,
    STORAGE_DTYPES,
    Codec,
    check_storage_dtype,
    count_tokens,
    decode_into,
    find_codec,
    from_bytes,
    name_codec,
    to_bytes,
    token_bytes,
    usual_token_bytes,
    working_dtype,
)

if TYPE_CHECKING:
    from t5enc.storage.schema import (
        KEY,
        METADATA_KEY,
        NOT_SHARED,
        NUM_BYTES,
        PREFIX,
        SCHEMA,
        SHARED_ROW,
        CaptionKeys,
        StoredRows,
        build_keys,
        build_table,
        column_format,
        list_columns,
        read_column,
    )

__all__ = [
    "CODECS",
    "KEY",
    "METADATA_KEY",
    "NOT_SHARED",
    "NUM_BYTES",
    "PREFIX",
    "SCHEMA",
    "SHARED_ROW",
    "STORAGE_DTYPES",
    "CaptionKeys",
    "Codec",
    "StoredRows",
    "build_keys",
    "build_table",
    "check_storage_dtype",
    "column_format",
    "count_tokens",
    "decode_into",
    "find_codec",
    "from_bytes",
    "list_columns",
    "name_codec",
    "read_column",
    "to_bytes",
    "token_bytes",
    "usual_token_bytes",
    "working_dtype",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 't5enc.storage' has no attribute {name!r}")
    return getattr(import_module("t5enc.storage.schema"), name)
