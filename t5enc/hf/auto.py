"""The drop-in of whatever family a checkpoint is, ready to encode."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from t5enc.errors import ConfigError
from t5enc.hf.families import FAMILIES
from t5enc.hf.fused_encoder import FusedEncoder
from t5enc.model.attention.flex_support import prefers_flex
from t5enc.model.precision import resolve_dtype
from t5enc.options import resolve_device


class AutoT5EncoderModel:
    """The drop-in of a checkpoint's own family, ready to encode: the place of nai-t5-wrapper's NAIT5EncoderModel.

    Unlike the drop-ins it chooses device and dtype, as that class did: CUDA where there is a card, bfloat16 there
    (float16 on old cards) and float32 on CPUs, for inference only.
    """

    @classmethod
    def from_pretrained(
        cls,
        model: Any,
        *,
        dtype: Any = None,
        torch_dtype: Any = None,
        device_map: Any = None,
        use_flex_attention: bool | None = None,
        **options: Any,
    ) -> FusedEncoder:
        """As the drop-ins' `from_pretrained`; `use_flex_attention` chooses Flex (None: on CUDA) or SDPA."""
        place = ("subfolder", "revision", "token", "cache_dir", "local_files_only")
        hub = {name: options[name] for name in place if name in options}
        config = options.pop("config", None) or transformers.AutoConfig.from_pretrained(model, **hub)
        device = _find_device(device_map)
        uses_flex = prefers_flex(device) if use_flex_attention is None else use_flex_attention
        options.setdefault("attn_implementation", "flex_attention" if uses_flex else "sdpa")
        found: FusedEncoder = _find_family(config).from_pretrained(
            model,
            config=config,
            dtype=_read_dtype(dtype or torch_dtype, device),
            device_map=str(device) if device_map is None else device_map,
            **options,
        )
        found.eval().requires_grad_(False)
        return found

    @classmethod
    def from_config(cls, config: Any, **options: Any) -> FusedEncoder:
        """An untrained model of the config's family."""
        return _find_family(config)(config, **options)


def _find_family(config: Any) -> type[FusedEncoder]:
    if config.model_type not in FAMILIES:
        raise ConfigError(f"model_type: expected one of {', '.join(FAMILIES)}, got {config.model_type!r}")
    return FAMILIES[config.model_type]


def _find_device(device_map: Any) -> torch.device:
    """The device that a map names, if it names one; else the one there is."""
    is_device = isinstance(device_map, torch.device) or str(device_map).partition(":")[0] in ("cpu", "cuda")
    return torch.device(device_map) if is_device else resolve_device(None)


def _read_dtype(dtype: Any, device: torch.device) -> Any:
    return dtype if dtype == "auto" else resolve_dtype(dtype, device)
