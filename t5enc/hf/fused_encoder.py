"""What the drop-ins have in common: a subclass of transformers' own models around a FusedStack."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import wraps
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from t5enc.checkpoint.hf_names import name_parts
from t5enc.checkpoint.weights import split_tensors
from t5enc.errors import ConfigError
from t5enc.hf.adapters import TakesAdapters, teach_peft
from t5enc.hf.conversion import make_conversions
from t5enc.hf.elsewhere import load_gguf, load_with_embedding
from t5enc.hf.layout import read_layout
from t5enc.hf.stack import DTYPES, WRONG_DTYPE, FusedStack, PadOutputs
from t5enc.model.compile import CompiledBlock
from t5enc.model.initialization import initialize
from t5enc.model.norm_fusion import SCALE, expect_fused_norms, fuse_norms, unfuse_norms, unfuse_tensors

HUB_OPTIONS = (
    "repo_id",
    "commit_message",
    "commit_description",
    "private",
    "create_pr",
    "token",
    "revision",
    "tags",
)


class FusedEncoder(TakesAdapters, PreTrainedModel):  # type: ignore[misc]
    """What the drop-ins have in common; `base_class` is transformers' class of the family."""

    base_class: type[PreTrainedModel]
    marks_config = True  # as an encoder's, which transformers does to all but UMT5's
    _no_split_modules = ("Block",)
    _keep_in_fp32_modules = None  # the residual is float32, so no weight has to be
    _can_compile_fullgraph = False

    def __init__(
        self,
        config: Any,
        *,
        pad_outputs: PadOutputs = "same",
        max_seq_len: int | None = None,
        has_fused_norms: bool = False,
    ) -> None:
        """An untrained model; see FusedStack for the options. `has_fused_norms` awaits weights stored so."""
        teach_peft()
        PreTrainedModel.__init__(self, config)  # not the base class's own, which would build its stack, too
        if self.marks_config:
            config.use_cache = False
            config.is_encoder_decoder = False
        size = (config.vocab_size, config.d_model)
        weight = torch.empty(size)
        self.shared = nn.Embedding(*size, _weight=weight)
        self.encoder = FusedStack(config, pad_outputs=pad_outputs, max_seq_len=max_seq_len)
        if self.shared.weight.is_meta and not weight.is_meta:  # under accelerate's init_empty_weights
            self.encoder.await_weights(self._build_plain().encoder.block)
        if has_fused_norms:
            expect_fused_norms(self.encoder.block)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *arguments: Any, **options: Any) -> Self:
        """As transformers has it, with the options of FusedStack; quantized models are refused, but for GGUF's.

        Also takes a folder that `t5enc convert` wrote.
        """
        _refuse_quantization(options)
        _refuse_dtype(options.get("dtype") or options.get("torch_dtype"))
        if options.get("gguf_file"):
            return load_gguf(cls, arguments, options)  # type: ignore[no-any-return]
        model = arguments[0] if arguments else options.get("pretrained_model_name_or_path")
        options = read_layout(cls.config_class, model, options)
        return load_with_embedding(super().from_pretrained, arguments, options)  # type: ignore[no-any-return]

    @wraps(PreTrainedModel.save_pretrained, assigned=(), updated=())  # its signature says what diffusers may ask for
    def save_pretrained(
        self, save_directory: Any, *, is_main_process: bool = True, push_to_hub: bool = False, **options: Any
    ) -> None:
        """In transformers' layout, under the name of transformers' class, norms unfused: any reader takes it."""
        hub = {name: options.pop(name) for name in HUB_OPTIONS if push_to_hub and name in options}
        self.encoder.join_when_free()
        if self.has_fused_norms:
            options["state_dict"] = unfuse_tensors(options.get("state_dict") or self.state_dict())
        self._weight_conversions = make_conversions()  # transformers undoes those alone that a load had use for
        super().save_pretrained(save_directory, is_main_process=is_main_process, **options)
        self.config.architectures = [self.base_class.__name__]
        if self.should_save_on_this_rank(is_main_process) and not getattr(self, "_hf_peft_config_loaded", False):
            _rename_architecture(Path(save_directory) / "config.json", self.base_class.__name__)
            if push_to_hub:
                sizes = {name: options[name] for name in ("max_shard_size",) if name in options}
                self.push_to_hub(hub.pop("repo_id", Path(save_directory).name), **hub, **sizes)

    def enable_input_require_grads(self) -> None:
        """As transformers has it; the embedding that runs is the encoder's."""
        super().enable_input_require_grads()
        hook = self.encoder.embed_tokens.register_forward_hook(_require_grad)
        self._require_grads_hooks.append(hook)

    def to_transformers(self) -> PreTrainedModel:
        """A plain model of transformers' class with a copy of these weights; float16 keeps its `wo` in float32."""
        self.encoder.expect_joined()
        if self.encoder.shape.scale_logits:
            raise ConfigError("scale_logits: expected a model without it, since transformers' T5 has no such scale")
        offloaded = [name for name, parameter in self.named_parameters() if parameter.is_meta]
        if offloaded:
            raise ConfigError(f"{offloaded[0]}: expected weights in memory, got offloaded ones; remove the hooks")
        plain = self._build_plain()
        wide = self.base_class._keep_in_fp32_modules if self.dtype == torch.float16 else None
        tensors = split_tensors(unfuse_tensors(self.state_dict()), self.list_parts())
        plain.load_state_dict({name: _copy(name, tensor, wide or ()) for name, tensor in tensors.items()}, assign=True)
        plain.tie_weights()
        plain.requires_grad_(self.shared.weight.requires_grad)
        return plain.train(self.training)

    def _build_plain(self) -> PreTrainedModel:
        """transformers' own model of this config, without weights."""
        with torch.device("meta"):
            return self.base_class(deepcopy(self.config))

    def compile(
        self,
        *,
        mode: str | None = None,
        options: Mapping[str, Any] | None = None,
        backend: str = "inductor",
        fullgraph: bool = True,
        dynamic: bool | None = None,
    ) -> Self:
        """Compile the block that all layers share; returns the model.

        Batches of any shape: with SDPA shapes are dynamic, with Flex (`attn_implementation="flex_attention"`, which
        compiles by itself) rows times tokens are rounded up to a rung, of which an octave has four. The block is
        always a full graph. `mode` and `options` are torch.compile's for Inductor; ConfigError for another backend,
        or a choice of `dynamic`.
        """
        if backend != "inductor" or dynamic is not None:
            wrong = f"dynamic={dynamic}" if dynamic is not None else f"backend={backend!r}"
            raise ConfigError(f"compile: expected Inductor and shapes as the attention has them, got {wrong}")
        self.encoder.compiled_padded = CompiledBlock(dynamic=True, mode=mode, options=options)
        self.encoder.compiled_flex = CompiledBlock(mode=mode, options=options)
        return self

    @property
    def compiled_graphs(self) -> int:
        """Graphs compiled so far."""
        compiled = (self.encoder.compiled_flex, self.encoder.compiled_padded)
        return sum(one.graphs for one in compiled if one is not None)

    @property
    def has_fused_norms(self) -> bool:
        """Whether `fuse_norms` has been called."""
        return any(name.endswith(SCALE) for name, _ in self.named_buffers())

    def fuse_norms(self) -> Self:
        """Multiply norm scales into the weights that follow: less work, and less accurate in 16 bit."""
        if self.encoder.awaits_weights:
            self.encoder.expect_weights()
        self.encoder.expect_joined()
        fuse_norms(self.encoder.block)
        return self

    def unfuse_norms(self) -> Self:
        """Undo `fuse_norms`, within rounding."""
        unfuse_norms(self.encoder.block)
        return self

    def list_parts(self) -> dict[str, tuple[str, ...]]:
        """Each fused parameter -> transformers' tensors that lie in it one above the other."""
        return name_parts(self.encoder.shape)

    def replace_linears(self, replace: Callable[[nn.Linear], nn.Module]) -> Self:
        """Put `replace(layer)` in the place of every linear layer: any module from (..., I) to (..., O).

        For products of other precision or quantized weights. The names of weights are then the replacement's.
        ConfigError for a layer with a bias, which T5 has not (and float16's scaled activations would scale).
        """
        self.encoder.replace_linears(replace)
        return self

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if not initialize(module, self.config.initializer_factor):
            super()._init_weights(module)


def _copy(name: str, tensor: Tensor, wide: Sequence[str]) -> Tensor:
    """A tensor of its own, in float32 where it belongs to one of the modules that transformers keeps so."""
    return tensor.float() if set(wide) & set(name.split(".")) else tensor.clone()


def _require_grad(module: nn.Module, arguments: Any, output: Tensor) -> None:
    output.requires_grad_(True)


def _refuse_quantization(options: Mapping[str, Any]) -> None:
    asked = [name for name in ("quantization_config", "load_in_8bit", "load_in_4bit") if options.get(name)]
    if asked:
        raise ConfigError(
            f"{asked[0]}: expected none, since quantizers of transformers replace layers that are fused here; load "
            f"transformers' own class, or replace the linear layers of a loaded model (replace_linears)"
        )


def _refuse_dtype(dtype: Any) -> None:
    known = {str(known).removeprefix("torch.") for known in DTYPES} | {"auto", "None"}
    if not isinstance(dtype, dict) and str(dtype).removeprefix("torch.") not in known:
        raise ConfigError(f"dtype: {WRONG_DTYPE}, got {dtype}")


def _rename_architecture(path: Path, name: str) -> None:
    config = json.loads(path.read_text(encoding="utf-8")) | {"architectures": [name]}
    aside = path.with_suffix(".aside")
    aside.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    aside.replace(path)
