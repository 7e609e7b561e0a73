"""The built-in tiny models under the name that earlier releases gave their module; `t5enc.checkpoint.builtin` has them.

from t5enc.builtin import write_builtin
write_builtin("builtin:tiny", folder)  # config, weights and tokenizer, as a checkpoint of transformers' layout
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    from t5enc.checkpoint import builtin

    return getattr(builtin, name)
