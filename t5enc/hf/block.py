"""The engine's block as transformers' layers are: it can be computed anew in backward, and takes their names."""

from __future__ import annotations

from typing import Any

from transformers.modeling_layers import GradientCheckpointingLayer

from t5enc.checkpoint.hf_names import is_scale, name_block
from t5enc.errors import ConfigError
from t5enc.hf.state_names import Parts, fuse_names
from t5enc.model import layers
from t5enc.model.norm_fusion import FUSIONS, unfuse_tensors


class Block(GradientCheckpointingLayer, layers.Block):  # type: ignore[misc]
    """A block whose activations are not kept in training, where gradient checkpointing is enabled."""

    def list_parts(self) -> Parts:
        """Each parameter -> transformers' tensors that lie in it one above the other."""
        return name_block(is_gated=self.feed_forward.pieces == 2)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Of a state in transformers' names or these, with norms fused or, where this block's are not, without."""
        parts = self.list_parts()
        if self.attention_norm.weight is not None:
            _unfuse(state_dict, prefix)
        elif any(
            prefix + name in state_dict for norm in FUSIONS for name in (f"{norm}.weight", *parts[f"{norm}.weight"])
        ):
            raise ConfigError("load_state_dict: expected a state of fused norms; call unfuse_norms() first")
        _, _, missing, _, errors = rest
        fuse_names(self, parts, state_dict, prefix, missing, errors)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _unfuse(state: dict[str, Any], prefix: str) -> None:
    scales = [name for name in state if name.startswith(prefix) and is_scale(name)]
    if scales:
        plain = unfuse_tensors(state)
        state.clear()
        state |= plain
