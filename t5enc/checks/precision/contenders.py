"""What `t5enc verify` measures: transformers, our drop-ins plain and with fused norms, and a peer if asked.

Each is loaded from where the others are, when its turn comes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from t5enc.checkpoint.builtin import is_builtin, write_builtin
from t5enc.checkpoint.opening import open_model
from t5enc.checkpoint.weights import is_fused
from t5enc.errors import ConfigError
from t5enc.hf.families import FAMILIES
from t5enc.options import EncoderOptions, ModelSource
from t5enc.text.preparer import open_tokenizer
from t5enc.text.tokenizer import Tokenizer

FUSED = "t5enc, norms fused"
PEER = "nai-t5-wrapper"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """Something to measure, and how to load it; an optional one may raise CheckpointError there."""

    name: str
    dtype: str
    is_ours: bool
    is_optional: bool
    load: Callable[[], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where transformers finds the model, and what to load of it."""

    place: str
    family: str
    keys: dict[str, Any]
    device: str
    attention: str
    max_length: int


def open_source(options: EncoderOptions, scratch: Path) -> tuple[Source, Tokenizer, EncoderOptions]:
    """The model's place, its tokenizer, and the options with nothing left open; a built-in is written out first."""
    model = options.source.model
    if options.source.lora is not None:
        raise ConfigError(
            f"lora: expected none, since transformers reads the model without it, got {options.source.lora}"
        )
    if Path(model).is_file():
        raise ConfigError(f"{model}: expected a folder or a hub id, since transformers reads no single files")
    named = options
    if is_builtin(model):
        write_builtin(model, scratch / "model")
        named = replace(options, source=ModelSource(model=str(scratch / "model")))
    checkpoint = open_model(named.source)
    if is_fused(checkpoint.tensors):
        raise ConfigError(f"{model}: expected transformers' layout, got that of `t5enc convert`")
    resolved = options.resolve(checkpoint.config)
    found = checkpoint.provenance
    keys: dict[str, Any] = {"revision": found["commit"]} if "commit" in found else {}
    keys |= {"subfolder": found["subfolder"]} if "subfolder" in found else {}
    chosen = {name: getattr(options.source, name) for name in ("variant", "token", "local_files_only")}
    keys |= {name: value for name, value in chosen.items() if value}
    source = Source(
        place=found.get("folder") or found["repository"],
        family=checkpoint.config.family,
        keys=keys,
        device=str(resolved.device),
        attention=resolved.attention,
        max_length=resolved.length,
    )
    return source, open_tokenizer(named, checkpoint), resolved


def list_contenders(source: Source, dtypes: Sequence[str], *, peers: bool) -> list[Contender]:
    """What is measured in each dtype; transformers in float32 is the reference itself.

    Raises ConfigError where peers are asked for and not installed.
    """
    loaders = {"transformers": load_transformers, "t5enc": load_ours, FUSED: load_fused}
    if peers:
        _check_peer()
        loaders[PEER] = load_peer
    pairs = [(dtype, name) for dtype in dtypes for name in loaders]
    return [
        Contender(
            name=name,
            dtype=dtype,
            is_ours=name.startswith("t5enc"),
            is_optional=name == FUSED,
            load=partial(loaders[name], source, dtype),
        )
        for dtype, name in pairs
        if (name, dtype) != ("transformers", "float32")
    ]


def _check_peer() -> None:
    if importlib.util.find_spec("nai_t5_wrapper") is None:
        raise ConfigError(f"peers: expected {PEER} to be installed (pip install 't5enc[bench]'), and it is not")


def load_transformers(source: Source, dtype: str) -> Any:
    """transformers' own class as it loads itself, `wo` in float32 for float16 included."""
    return _load(FAMILIES[source.family].base_class, source, dtype, attn_implementation="sdpa")


def load_ours(source: Source, dtype: str) -> Any:
    """The drop-in of the family."""
    attention = "flex_attention" if source.attention == "flex" else "sdpa"
    return _load(FAMILIES[source.family], source, dtype, attn_implementation=attention)


def load_fused(source: Source, dtype: str) -> Any:
    """The drop-in with its norm scales multiplied into the weights."""
    return load_ours(source, dtype).fuse_norms()


def load_peer(source: Source, dtype: str) -> Any:
    """nai-t5-wrapper with SDPA."""
    peer: Any = import_module("nai_t5_wrapper").NAIT5EncoderModel
    options = {"device_map": source.device, "use_flex_attention": False, "max_seq_len": max(512, source.max_length)}
    return _load(peer, source, dtype, **options)


def _load(model_class: Any, source: Source, dtype: str, **options: Any) -> Any:
    with _no_progress_bars():
        model = model_class.from_pretrained(source.place, dtype=getattr(torch, dtype), **source.keys, **options)
    return model.eval().requires_grad_(False).to(source.device)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """transformers draws a bar for each of many loads."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()
