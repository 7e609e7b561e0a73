"""The codecs of stored embeddings: how tokens become bytes and come back, by the name of a storage dtype.

T tokens, M model dim. Loads nothing heavy, so that the command line can list them.
"""

from t5enc.storage.codecs.codec import Codec
from t5enc.storage.codecs.table import (
    CODECS,
    STORAGE_DTYPES,
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

__all__ = [
    "CODECS",
    "STORAGE_DTYPES",
    "Codec",
    "check_storage_dtype",
    "count_tokens",
    "decode_into",
    "find_codec",
    "from_bytes",
    "name_codec",
    "to_bytes",
    "token_bytes",
    "usual_token_bytes",
    "working_dtype",
]
