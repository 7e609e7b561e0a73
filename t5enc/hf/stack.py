"""The encoder behind transformers' interface: padded batches in, hidden states out, by the engine's own blocks.

B batch, S sequence, M model dim, H heads, T = B * S rounded up to a rung.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from t5enc.config import EncoderConfig
from t5enc.errors import ConfigError, InputError
from t5enc.hf.unpadding import Rows, find_rows
from t5enc.model.attention import AttentionPlan, PositionBias, plan_flex_batch, plan_padded, position_bias
from t5enc.model.bias import RelativeBias
from t5enc.model.compile import CompiledBlock
from t5enc.model.layers import Block, RMSNorm, RunBlock
from t5enc.model.packing import round_rung
from t5enc.model.precision import residual_dtype
from t5enc.options import SMALLEST_FLEX_HEAD

ATTENTIONS = ("sdpa", "flex_attention", "eager")
PadOutputs = Literal["same", "zero", "skip"]
logger = logging.getLogger(__name__)


class FusedStack(nn.Module):
    """What transformers' T5Stack is to its models: embedding, blocks and final norm, with fused weights.

    `pad_outputs` says what stands at pads: "same" is what transformers computes there, "zero" computes no pads and
    leaves zeros, "skip" also cuts the result to the longest row, each row's tokens first. `max_seq_len` refuses
    longer inputs.
    """

    def __init__(self, config: Any, *, pad_outputs: PadOutputs = "same", max_seq_len: int | None = None) -> None:
        super().__init__()
        if pad_outputs not in ("same", "zero", "skip"):
            raise ConfigError(f"pad_outputs: expected same, zero or skip, got {pad_outputs!r}")
        self.config = config
        self.shape = EncoderConfig.from_hf(config.to_dict())
        self.pad_outputs = pad_outputs
        self.max_seq_len = max_seq_len
        self.embed_tokens = nn.Embedding(
            self.shape.vocab_size,
            self.shape.model_dim,
            _weight=torch.empty(self.shape.vocab_size, self.shape.model_dim),
        )
        self.relative_bias = RelativeBias(self.shape)
        self.block = nn.ModuleList(Block(self.shape, config.dropout_rate) for _ in range(self.shape.num_layers))
        self.final_layer_norm = RMSNorm(self.shape.model_dim, self.shape.norm_eps)
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable[..., Tensor] | None = None
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
    ) -> BaseModelOutput | tuple[Any, ...]:
        """(B, S) ids or (B, S, M) embeddings, and a mask (B, S), (B, S, S) or (B, 1 or H, S, S) -> (B, S, M).

        Other arguments are passed over, as transformers does.
        """
        if use_cache:
            raise InputError("use_cache: expected none, since an encoder has no cache")
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("expected either input_ids or inputs_embeds, got both or none")
        embeds = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if embeds.dim() != 3:
            raise InputError(f"expected ids of shape (batch, sequence), got embeddings {tuple(embeds.shape)}")
        if self.max_seq_len is not None and embeds.shape[1] > self.max_seq_len:
            raise InputError(f"expected at most max_seq_len = {self.max_seq_len} tokens, got {embeds.shape[1]}")
        attentions = self.config.output_attentions if output_attentions is None else output_attentions
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        run = Run(self, embeds, attention_mask, keeps_states=bool(wanted), weights=[] if attentions else None)
        hidden = run.encode()
        output = BaseModelOutput(
            last_hidden_state=hidden,
            hidden_states=_select_states(run.states, hidden, wanted) if wanted else None,
            attentions=tuple(run.weights) if run.weights is not None else None,
        )
        return output.to_tuple() if return_dict is False else output

    def drop_out(self, hidden: Tensor) -> Tensor:
        """Dropout as transformers has it around the blocks."""
        return F.dropout(hidden, self.config.dropout_rate, self.training)

    def run_blocks(self, hidden: Tensor, plan: AttentionPlan, run: RunBlock | None) -> Iterator[Tensor]:
        """The residual after each block."""
        tables = self.relative_bias()
        dtype = self.attention_dtype(hidden.device)
        bias = position_bias(tables[0], plan, dtype)
        for layer, block in enumerate(self.block):
            if layer and self.shape.bias_per_layer:
                bias = position_bias(tables[layer], plan, dtype)
            hidden = self._run_block(block, hidden, bias, plan, run)
            yield hidden

    def _run_block(
        self, block: nn.Module, hidden: Tensor, bias: PositionBias, plan: AttentionPlan, run: RunBlock | None
    ) -> Tensor:
        if not (self.gradient_checkpointing and self.training):
            return block(hidden, bias, plan, self.dtype, run)  # type: ignore[no-any-return]

        def again(hidden: Tensor, *parts: Tensor | None) -> Tensor:
            return block(hidden, PositionBias(*parts), plan, self.dtype, run)  # type: ignore[arg-type, no-any-return]

        assert self._gradient_checkpointing_func is not None
        return self._gradient_checkpointing_func(again, hidden, *bias)

    def needs_grad(self, embeds: Tensor) -> bool:
        """Whether somebody may call backward."""
        return torch.is_grad_enabled() and (
            embeds.requires_grad or any(parameter.requires_grad for parameter in self.parameters())
        )

    def find_run(self, compiled: CompiledBlock | None) -> RunBlock | None:
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


class Run:
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
        name = self.stack.config._attn_implementation
        if name not in ATTENTIONS:
            raise ConfigError(f"attn_implementation: expected one of {', '.join(ATTENTIONS)}, got {name!r}")
        return str(name)

    def _may_unpad(self) -> bool:
        return not (self.keeps_states or self.weights is not None or self.stack.training)

    def _may_use_flex(self) -> bool:
        stack = self.stack
        is_asked = self._attention == "flex_attention" and self.weights is None
        is_able = stack.dtype != torch.float64 and (
            self.embeds.device.type == "cpu" or stack.shape.head_dim >= SMALLEST_FLEX_HEAD
        )
        return is_asked and is_able and not stack.training and not stack.needs_grad(self.embeds)

    def _encode_padded(self) -> Tensor:
        stack = self.stack
        is_eager = self.weights is not None or self._attention == "eager"
        batch, length = self.embeds.shape[:2]
        dtype = stack.attention_dtype(self.embeds.device)
        plan = plan_padded(batch, length, self.mask, dtype, is_eager=is_eager, weights=self.weights)
        run = None if is_eager else stack.find_run(stack.compiled_padded)
        return self._finish(self._run(self._start(self.embeds), plan, run))

    def _encode_flex(self) -> Tensor | None:
        """None where Flex cannot run this mask, or something overflowed, which in a stream spoils all rows."""
        stack, (batch, length) = self.stack, self.embeds.shape[:2]
        run = stack.find_run(stack.compiled_flex)
        total = round_rung(batch * length)
        plan = None if run is None else plan_flex_batch(self.mask, batch, length, total, self.embeds.device)
        if plan is None:
            return None
        flat = F.pad(rearrange(self.embeds, "b s m -> (b s) m"), (0, 0, 0, total - batch * length))
        hidden = self._run(self._start(flat), plan, run)
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
        run, plan = None, rows.plan_groups()
        if self._may_use_flex():
            run = stack.find_run(stack.compiled_flex)
            plan = rows.plan_flex(self.embeds.device) if run is not None else plan
        flat = rows.gather(self.embeds)
        hidden = self._run(self._start(F.pad(flat, (0, 0, 0, plan.total - len(flat)))), plan, run)
        if run is not None and not hidden.isfinite().all():
            hidden = self._run(self._start(flat), rows.plan_groups(), None)
        return rows.scatter(self._finish(hidden), skips=self._skips)

    def _start(self, embeds: Tensor) -> Tensor:
        return self.stack.drop_out(embeds).to(residual_dtype(self.stack.dtype))

    def _run(self, hidden: Tensor, plan: AttentionPlan, run: RunBlock | None) -> Tensor:
        if self.keeps_states:
            self.states = [hidden]
        for residual in self.stack.run_blocks(hidden, plan, run):
            hidden = residual
            if self.keeps_states:
                self.states.append(hidden)
        return hidden

    def _finish(self, hidden: Tensor) -> Tensor:
        return self.stack.drop_out(self.stack.final_layer_norm(hidden, self.stack.dtype))


def read_mask(mask: Tensor | None, embeds: Tensor, heads: int) -> Tensor | None:
    """A mask as booleans, or numbers to add, that broadcast to (B, H, S, S); None where everything is seen.

    As in transformers: 2-D is padding, 4-D is taken as it is (booleans, else numbers to add). 3-D says, query by key,
    who sees whom.
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise InputError(f"attention_mask: expected a tensor, got {type(mask).__name__}")
    batch, length = embeds.shape[:2]
    expected = {2: (batch, length), 3: (batch, length, length)}.get(mask.dim())
    allowed = ((1, batch), (1, heads), (1, length), (length,))
    is_square = mask.dim() == 4 and all(size in sizes for size, sizes in zip(mask.shape, allowed, strict=True))
    if not is_square and tuple(mask.shape) != expected:
        wanted = expected or f"2, 3 or 4 dimensions for {batch} rows of {length} tokens and {heads} heads"
        raise InputError(f"attention_mask: expected {wanted}, got {tuple(mask.shape)}")
    mask = mask.to(embeds.device)
    if mask.dim() == 4:
        return mask
    mask = mask.bool()
    is_traced = (
        torch._C._get_tracing_state() is not None or torch.compiler.is_compiling()
    )  # this mask stands for others
    if not mask.is_cuda and not is_traced and mask.all():
        return None
    return rearrange(mask, "b k -> b 1 1 k") if mask.dim() == 2 else rearrange(mask, "b q k -> b 1 q k")


def _select_states(states: list[Tensor], last: Tensor, wanted: bool | int | list[int]) -> tuple[Tensor | None, ...]:
    """Embeddings and the residual after each block but the last, whose place the final states take."""
    limits = torch.finfo(last.dtype)
    found: list[Tensor | None] = [*(_clamp(state, limits).to(last.dtype) for state in states[:-1]), last]
    if wanted is True:
        return tuple(found)
    asked = [wanted] if isinstance(wanted, int) else wanted
    places = {place % len(found) for place in asked if -len(found) <= place < len(found)}
    return tuple(state if place in places else None for place, state in enumerate(found))


def _clamp(state: Tensor, limits: torch.finfo) -> Tensor:
    """Within the range of the dtype it will have: the residual may leave float16's, as transformers' may not."""
    return state.clamp(limits.min, limits.max) if limits.bits < 32 else state
