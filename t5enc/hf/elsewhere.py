"""Weights that lie elsewhere than an encoder has them: the embedding in the decoder alone, all of them in GGUF."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from t5enc.checkpoint.hf_names import DECODER_EMBEDDING, EMBEDDING, OWN_EMBEDDING
from t5enc.errors import CheckpointError, ConfigError

# madlad400's two halves share an embedding that is saved as the decoder's.
FROM_DECODER = {rf"^{re.escape(DECODER_EMBEDDING)}$": EMBEDDING}
OWN_OPTIONS = ("pad_outputs", "max_seq_len")


def load_with_embedding(load: Callable[..., Any], arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
    """What `load` gives for these arguments, with the decoder's embedding where the encoder has none.

    CheckpointError where neither is there: transformers would draw one at random, with no more than a warning.
    """
    asked = dict(options)
    with_info = bool(asked.pop("output_loading_info", False))
    model, info = load(*arguments, **asked, output_loading_info=True)
    if _lacks_embedding(model, info) and not asked.get("key_mapping"):
        model, info = load(*arguments, **asked | {"key_mapping": FROM_DECODER}, output_loading_info=True)
    if _lacks_embedding(model, info):
        raise CheckpointError(f"{EMBEDDING}: missing, and so are {OWN_EMBEDDING} and {DECODER_EMBEDDING}")
    return (model, info) if with_info else model


def _lacks_embedding(model: Any, info: Mapping[str, Any]) -> bool:
    """Whether weights were found, but those of the embedding; a model without any is meant to be untrained."""
    missing = set(info["missing_keys"])
    return {EMBEDDING, OWN_EMBEDDING} <= missing and missing != set(model.state_dict())


def load_gguf(cls: Any, arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
    """A drop-in with the weights of a GGUF file, which transformers' own class reads and multiplies out.

    Both are in memory for a moment. ConfigError for options of the loader that this way has not.
    """
    asked = dict(options)
    for name in ("device_map", "output_loading_info"):
        if asked.pop(name, None) not in (None, False, "cpu"):
            raise ConfigError(
                f"{name}: expected none with gguf_file, got {options[name]!r}; move the model once it is there"
            )
    own = {name: asked.pop(name) for name in OWN_OPTIONS if name in asked}
    attention = asked.pop("attn_implementation", None)
    plain = cls.base_class.from_pretrained(*arguments, **asked)
    config = plain.config
    if config.is_gated_act and not str(config.feed_forward_proj).startswith("gated-"):
        # transformers takes a gate from the file and relu from its defaults; all gated T5s there are gelu's.
        config.feed_forward_proj, config.dense_act_fn = "gated-gelu", "gelu_new"
    if hasattr(config, "quantization_config"):  # the file's; nothing of it is left in the weights
        del config.quantization_config
    model = cls._from_config(config, attn_implementation=attention, dtype=plain.dtype, **own)
    model.load_state_dict(plain.state_dict())
    return model.eval()
