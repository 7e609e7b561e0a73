"""One compiled function for all blocks of an encoder."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from t5enc.model.attention.plan import AttentionPlan
from t5enc.model.attention.position_bias import PositionBias
from t5enc.model.layers import Block, ComputeBlock, compute_block
from t5enc.model.threads import holding_num_threads


class CompiledBlock:
    """`compute_block`, compiled once for all layers; counts the graphs that were made.

    Flex takes static shapes: stream lengths come in rungs, and every rung is one graph. Padded batches of any shape
    are `dynamic`. `mode` and `options` are torch.compile's. The limit on recompiles is this encoder's own where torch
    can isolate it, and in any case above the number of rungs there are. Copies and pickles start anew.
    """

    LIMIT = 256

    def __init__(
        self, *, dynamic: bool = False, mode: str | None = None, options: Mapping[str, Any] | None = None
    ) -> None:
        self.graphs = 0
        self.dynamic = dynamic
        self.mode = mode
        self.options = dict(options or {})
        self._compiled: ComputeBlock | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (self.dynamic, self.mode, self.options)

    def __call__(
        self, block: Block, residual: Tensor, bias: PositionBias, plan: AttentionPlan, dtype: torch.dtype
    ) -> Tensor:
        if self._compiled is None:
            self._compiled = self._compile()
        if plan.block_mask is None or residual.device.type != "cpu":
            return self._compiled(block, residual, bias, plan, dtype)
        with holding_num_threads():
            return self._compiled(block, residual, bias, plan, dtype)

    def _compile(self) -> ComputeBlock:
        options: dict[str, Any] = {"recompile_limit": self.LIMIT, "isolate_recompiles": True}
        known = inspect.signature(torch.compile).parameters
        if "recompile_limit" not in known:
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, self.LIMIT)
        accepted = {name: value for name, value in options.items() if name in known}
        return torch.compile(compute_block, backend=self._backend, fullgraph=True, dynamic=self.dynamic, **accepted)

    def _backend(self, graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        """Inductor, which torch would give mode and options to only under its own name."""
        from torch._inductor.compile_fx import compile_fx

        self.graphs += 1
        patches = (torch._inductor.list_mode_options(self.mode) if self.mode else {}) | self.options
        return cast("Callable[..., Any]", compile_fx(graph, list(inputs), config_patches=patches or None))


def _remake(dynamic: bool, mode: str | None, options: Mapping[str, Any]) -> CompiledBlock:
    return CompiledBlock(dynamic=dynamic, mode=mode, options=options)
