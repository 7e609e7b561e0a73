"""What transformers' loader has to be told of a folder that `t5enc convert` wrote.

Its config.json names weights that do not exist, so that transformers' own classes stop instead of drawing at random
what they miss. The classes of `t5enc.hf` take such a config without that name.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from t5enc.checkpoint.layouts import FUSED_LAYOUT, FUSED_NORMS_FIELD, LAYOUT_FIELD
from t5enc.errors import CheckpointError

PLACE = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "subfolder")
# Fields of a config that are options of the loader, too, and more than a field there.
LOADERS_OWN = ("dtype", "torch_dtype", "attn_implementation")


def read_layout(config_class: Any, model: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `from_pretrained` for a model of either layout: those given, or with the config of a fused one."""
    given = options.get("config")
    if given is not None and hasattr(given, "to_dict"):
        return dict(options) | _take_marks(deepcopy(given))
    source = model if given is None else given
    if source is None or options.get("gguf_file"):
        return dict(options)
    place = {name: options[name] for name in PLACE if name in options}
    described, _ = config_class.get_config_dict(source, **place)
    if LAYOUT_FIELD not in described:
        return dict(options)
    return _with_config(config_class.from_dict(described), options)


def _with_config(config: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that are fields of the config change it, as the loader does where it reads the config itself."""
    fields = {name for name in options if hasattr(config, name) and name not in LOADERS_OWN}
    for name in fields:
        setattr(config, name, options[name])
    return {name: value for name, value in options.items() if name not in fields} | _take_marks(config)


def _take_marks(config: Any) -> dict[str, Any]:
    """The config as the model is to have and to save it, and what the marks in it said."""
    layout = config.to_dict().get(LAYOUT_FIELD)
    if layout is None:
        return {"config": config}
    if layout != FUSED_LAYOUT:
        raise CheckpointError(f"{LAYOUT_FIELD}: expected {FUSED_LAYOUT}, got {layout!r} (of a newer t5enc?)")
    has_fused_norms = bool(getattr(config, FUSED_NORMS_FIELD, False))
    for name in (LAYOUT_FIELD, FUSED_NORMS_FIELD, "transformers_weights"):
        if hasattr(config, name):
            delattr(config, name)
    return {"config": config, "has_fused_norms": True} if has_fused_norms else {"config": config}
