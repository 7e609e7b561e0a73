"""The encoder behind transformers' interface: padded batches in, hidden states out, by the engine's own blocks.

B batch, S sequence, M model dim, H heads, T = B * S rounded up to a rung.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from t5enc.errors import ConfigError, InputError
from t5enc.hf.attention_mask import read_mask
from t5enc.hf.hidden_states import select_states
from t5enc.hf.stack_modules import StackModules
from t5enc.hf.unpadding import Rows, find_rows
from t5enc.model.attention.flex_support import find_flex_obstacle
from t5enc.model.attention.plan import AttentionPlan, plan_flex_batch, plan_padded
from t5enc.model.compile import CompiledBlock
from t5enc.model.layer_loop import layer_biases, run_blocks
from t5enc.model.layers import ComputeBlock
from t5enc.model.packing import round_rung
from t5enc.model.precision import residual_dtype

ATTENTIONS = ("sdpa", "flex_attention", "eager")
PadOutputs = Literal["same", "zero", "skip"]
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
WRONG_DTYPE = (
    "expected float32, bfloat16, float16 or float64, in which it computes (to store weights in 8 bit: diffusers' "
    "apply_layerwise_casting, or replace_linears)"
)
logger = logging.getLogger(__name__)


class FusedStack(StackModules):
    """What transformers' T5Stack is to its models: embedding, blocks and final norm, with fused weights.

    `pad_outputs` says what stands at pads: "same" is what transformers computes there, "zero" computes no pads and
    leaves zeros, "skip" also cuts the result to the longest row, each row's tokens first. `max_seq_len` refuses
    longer inputs.
    """

    def __init__(self, config: Any, *, pad_outputs: PadOutputs = "same", max_seq_len: int | None = None) -> None:
        super().__init__(config)
        if pad_outputs not in ("same", "zero", "skip"):
            raise ConfigError(f"pad_outputs: expected same, zero or skip, got {pad_outputs!r}")
        self.pad_outputs = pad_outputs
        self.max_seq_len = max_seq_len
        self.compiled_flex = CompiledBlock()
        self.compiled_padded: CompiledBlock | None = None

    @property
    def dtype(self) -> torch.dtype:
        """What the products compute in, and the dtype of the results."""
        assert self.final_layer_norm.weight is not None
        return self.final_layer_norm.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the embedding is."""
        return self.embed_tokens.weight.device

    def attention_dtype(self, device: torch.device) -> torch.dtype:
        """What queries and keys come in on a device: autocast's dtype where that is on."""
        is_known = torch.amp.is_autocast_available(device.type) and self.dtype != torch.float64
        is_cast = is_known and torch.is_autocast_enabled(device.type)
        return torch.get_autocast_dtype(device.type) if is_cast else self.dtype

    def get_input_embeddings(self) -> nn.Module:
        """The embedding."""
        return self.embed_tokens

    def set_input_embeddings(self, embeddings: nn.Embedding) -> None:
        """Put another embedding in its place."""
        self.embed_tokens = embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        return_dict: bool | None = None,
        use_cache: bool | None = None,
        **_: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions | tuple[Any, ...]:
        """(B, S) ids or (B, S, M) embeddings, and a mask (B, S), (B, S, S) or (B, 1 or H, S, S) -> (B, S, M).

        Other arguments are passed over, as transformers does.
        """
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype: {WRONG_DTYPE}, got {self.dtype}")
        if use_cache:
            raise InputError("use_cache: expected none, since an encoder has no cache")
        given = input_ids if inputs_embeds is None else inputs_embeds
        if given is None or (input_ids is not None and inputs_embeds is not None):
            raise InputError("expected either input_ids or inputs_embeds, got both or none")
        if self.awaits_weights or not given.is_meta:
            self.expect_weights()
        self.join_when_free()
        embeds = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if embeds.dim() != 3:
            raise InputError(f"expected ids of shape (batch, sequence), got embeddings {tuple(embeds.shape)}")
        if self.max_seq_len is not None and embeds.shape[1] > self.max_seq_len:
            raise InputError(f"expected at most max_seq_len = {self.max_seq_len} tokens, got {embeds.shape[1]}")
        attentions = self.config.output_attentions if output_attentions is None else output_attentions
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        weights: list[Tensor] | None = [] if attentions else None
        forward_pass = ForwardPass(self, embeds, attention_mask, keeps_states=bool(wanted), weights=weights)
        hidden = forward_pass.encode()
        output = BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=hidden,
            hidden_states=select_states(forward_pass.states, hidden, wanted) if wanted else None,
            attentions=tuple(weights) if weights is not None else None,
        )
        return output.to_tuple() if return_dict is False else output

    def drop_out(self, hidden: Tensor) -> Tensor:
        """Dropout as transformers has it around the blocks."""
        return F.dropout(hidden, self.config.dropout_rate, self.training)

    def needs_grad(self, embeds: Tensor) -> bool:
        """Whether somebody may call backward."""
        return torch.is_grad_enabled() and (
            embeds.requires_grad or any(parameter.requires_grad for parameter in self.parameters())
        )

    def allow_compiled(self, compiled: CompiledBlock | None) -> ComputeBlock | None:
        """The compiled block, or None, said once, where hooks inside blocks would be compiled away."""
        if compiled is None or not has_inner_hooks(self.block):
            return compiled
        _say_eager()
        return None


@lru_cache(maxsize=1)
def _say_eager() -> None:
    logger.warning(
        "modules inside the encoder's blocks have hooks (offloading, for example): running without compilation"
    )


def has_inner_hooks(blocks: nn.ModuleList) -> bool:
    """Whether anything inside a block, not the block itself, has hooks or another forward."""
    inner = (module for block in blocks for module in block.modules() if module is not block)
    return any(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__ for module in inner)


class ForwardPass:
    """One call of the stack: which path it takes, and what it collects on the way."""

    def __init__(
        self,
        stack: FusedStack,
        embeds: Tensor,
        mask: Tensor | None,
        *,
        keeps_states: bool,
        weights: list[Tensor] | None,
    ) -> None:
        self.stack = stack
        self.embeds = embeds
        self.mask = read_mask(mask, embeds, stack.shape.num_heads)
        self.padding = mask if mask is not None and mask.dim() == 2 else None
        self.keeps_states = keeps_states
        self.weights = weights
        self.states: list[Tensor] = []

    def encode(self) -> Tensor:
        """(B, S, M) hidden states in the model's dtype; (B, longest, M) with pads skipped."""
        stack = self.stack
        rows = None if stack.pad_outputs == "same" else find_rows(self.padding, self.mask)
        if rows is not None and self._may_unpad():
            return self._encode_rows(rows)
        hidden = self._encode_flex() if self._may_use_flex() else None
        if hidden is None:
            hidden = self._encode_padded()
        if rows is None:
            return hidden
        self.states = [rows.clear_pads(state, skips=self._skips) for state in self.states]
        return rows.clear_pads(hidden, skips=self._skips)

    @property
    def _skips(self) -> bool:
        return self.stack.pad_outputs == "skip"

    @property
    def _attention(self) -> str:
        name = (
            self.stack.config._attn_implementation or "sdpa"
        )  # none is chosen where another model's part has a config
        if name not in ATTENTIONS:
            raise ConfigError(f"attn_implementation: expected one of {', '.join(ATTENTIONS)}, got {name!r}")
        return str(name)

    def _may_unpad(self) -> bool:
        return not (self.keeps_states or self.weights is not None or self.stack.training)

    def _may_use_flex(self) -> bool:
        stack = self.stack
        if self._attention != "flex_attention" or self.weights is not None or stack.training:
            return False
        needs_grad = stack.needs_grad(self.embeds)
        return not find_flex_obstacle(stack.shape, self.embeds.device, dtype=stack.dtype, needs_grad=needs_grad)

    def _encode_padded(self) -> Tensor:
        stack = self.stack
        is_eager = self.weights is not None or self._attention == "eager"
        batch, length = self.embeds.shape[:2]
        dtype = stack.attention_dtype(self.embeds.device)
        plan = plan_padded(batch, length, self.mask, dtype, is_eager=is_eager)
        compiled = None if is_eager else stack.allow_compiled(stack.compiled_padded)
        return self._finish(self._run(self._start(self.embeds), plan, compiled))

    def _encode_flex(self) -> Tensor | None:
        """None where Flex cannot run this mask, or something overflowed, which in a stream spoils all rows."""
        stack, (batch, length) = self.stack, self.embeds.shape[:2]
        compiled = stack.allow_compiled(stack.compiled_flex)
        total = round_rung(batch * length)
        plan = None if compiled is None else plan_flex_batch(self.mask, batch, length, total, self.embeds.device)
        if plan is None:
            return None
        flat = F.pad(rearrange(self.embeds, "b s m -> (b s) m"), (0, 0, 0, total - batch * length))
        hidden = self._run(self._start(flat), plan, compiled)
        if not hidden.isfinite().all():
            self.states.clear()
            return None
        self.states = [self._unflatten(state, batch, length) for state in self.states]
        return self._finish(self._unflatten(hidden, batch, length))

    def _unflatten(self, flat: Tensor, batch: int, length: int) -> Tensor:
        return rearrange(flat[: batch * length], "(b s) m -> b s m", b=batch)

    def _encode_rows(self, rows: Rows) -> Tensor:
        """Real tokens only, laid end to end."""
        stack = self.stack
        if not rows.lengths.any():
            return rows.scatter(self.embeds.new_zeros(0, stack.shape.model_dim, dtype=stack.dtype), skips=self._skips)
        compiled, plan = None, rows.plan_groups()
        if self._may_use_flex():
            compiled = stack.allow_compiled(stack.compiled_flex)
            plan = rows.plan_flex(self.embeds.device) if compiled is not None else plan
        flat = rows.gather(self.embeds)
        hidden = self._run(self._start(F.pad(flat, (0, 0, 0, plan.total - len(flat)))), plan, compiled)
        if compiled is not None and not hidden.isfinite().all():
            hidden = self._run(self._start(flat), rows.plan_groups(), None)
        return rows.scatter(self._finish(hidden), skips=self._skips)

    def _start(self, embeds: Tensor) -> Tensor:
        return self.stack.drop_out(embeds).to(residual_dtype(self.stack.dtype))

    def _run(self, hidden: Tensor, plan: AttentionPlan, compiled: ComputeBlock | None) -> Tensor:
        stack = self.stack
        biases = layer_biases(stack.relative_bias(), stack.shape, plan, stack.attention_dtype(hidden.device))
        keep = None if self.weights is None else self.weights.append
        residuals = run_blocks(
            stack.block,
            hidden,
            biases,
            plan,
            stack.dtype,
            compiled=compiled,
            keep_weights=keep,
        )
        if self.keeps_states:
            self.states = [hidden, *residuals]
            return self.states[-1]
        for residual in residuals:
            hidden = residual
        return hidden

    def _finish(self, hidden: Tensor) -> Tensor:
        return self.stack.drop_out(self.stack.final_layer_norm(hidden, self.stack.dtype))
