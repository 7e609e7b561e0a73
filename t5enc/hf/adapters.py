"""PEFT's adapters made for transformers' layers, on the drop-ins: PEFT finds those layers when it looks for them.

PEFT finds layers by name as it puts adapters in, and tells a model nothing before. So its one method that does this is
wrapped, at the first question that it asks of a drop-in: whether there are adapters already.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import wraps
from typing import Any

from torch import nn

from t5enc.checkpoint.hf_names import BIAS
from t5enc.errors import ConfigError
from t5enc.hf.block import list_names
from t5enc.hf.stack_modules import StackModules

CONFIGS = "peft_config"


class TakesAdapters:
    """`peft_config`, which PEFT asks for, sets and deletes, as any attribute; asked and deleted are our occasions."""

    encoder: Any

    @property
    def peft_config(self) -> Any:
        """The configurations of the adapters that are in the model."""
        teach_peft()
        if CONFIGS not in self.__dict__:
            raise AttributeError(CONFIGS)
        return self.__dict__[CONFIGS]

    @peft_config.setter
    def peft_config(self, configs: Any) -> None:
        self.__dict__[CONFIGS] = configs

    @peft_config.deleter
    def peft_config(self) -> None:
        del self.__dict__[CONFIGS]
        self.encoder.join_when_free()


def teach_peft() -> None:
    """Have PEFT, where it is imported, find transformers' layers in our stacks."""
    if "peft" not in sys.modules:
        return
    from peft.tuners.tuners_utils import BaseTuner

    inject = BaseTuner.inject_adapter
    if getattr(inject, "splits_stacks", False):
        return

    @wraps(inject)
    def split_and_inject(tuner: Any, model: nn.Module, adapter_name: str, *rest: Any, **options: Any) -> Any:
        stacks = {name: module for name, module in model.named_modules() if isinstance(module, StackModules)}
        if stacks:
            _split(tuner, model, adapter_name, stacks, options.get("state_dict"))
        try:
            return inject(tuner, model, adapter_name, *rest, **options)
        finally:
            for stack in stacks.values():
                stack.join_when_free()

    split_and_inject.splits_stacks = True  # type: ignore[attr-defined]
    BaseTuner.inject_adapter = split_and_inject  # type: ignore[method-assign, assignment]


def _split(tuner: Any, model: nn.Module, adapter_name: str, stacks: dict[str, StackModules], state: Any) -> None:
    """Split the stacks in which an adapter is for transformers' layers; ConfigError where it is for more of theirs."""
    config = tuner.peft_config[adapter_name]
    if getattr(config, "target_modules", "") is None:
        config = tuner._prepare_adapter_config(config, tuner.get_model_config(model))
    for path, stack in stacks.items():
        prefix = f"{path}." if path else ""
        if stack.awaits_weights:
            stack.expect_weights()
        linears = {part for theirs in stack.list_blocks()[0].list_linears().values() for part in theirs}
        matched = {name for name in _list_names(stack) if _is_meant(tuner, config, prefix + name, state)}
        others = [name for name in sorted(matched) if name.partition(".")[2].partition(".")[2] not in linears]
        if others:
            raise ConfigError(
                f"{prefix}{others[0]}: expected an adapter of linear layers, got one of this; put it on "
                f"model.to_transformers()"
            )
        if matched:
            stack.split()


def _list_names(stack: StackModules) -> Iterator[str]:
    """transformers' names of what has another name in a stack, seen from there."""
    for layer, block in enumerate(stack.list_blocks()):
        tables = {"": [BIAS]} if layer < stack.shape.num_biases else {}
        for name in list_names({**block.list_parts(), **tables}):
            yield f"block.{layer}.{name}"


def _is_meant(tuner: Any, config: Any, name: str, state: Any) -> bool:
    """As PEFT decides it: by the names of a state, if one is given, else by the config."""
    if any(name == kept or name.endswith(f".{kept}") for kept in getattr(config, "modules_to_save", None) or ()):
        return True
    if state is not None:
        return any(key.rsplit(f".{tuner.prefix}", 1)[0].removeprefix("_orig_mod.") == name for key in state)
    if not getattr(config, "target_modules", None):
        return False
    return bool(tuner._check_target_module_exists(config, name))
