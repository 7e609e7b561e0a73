"""What a pipeline's call hands to its encoding function, and the call itself up to its scheduler.

What is not named has the default of the class's `__call__`, not that of an inner function.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch

CPU = torch.device("cpu")
Options = Mapping[str, Any]
# The options that are arguments of a call; the others are the checkpoint's, or make the caption.
ARGUMENTS = ("max_sequence_length", "clean_caption", "mask_feature", "negative_prompt", "negative_prompt_3")


def find_arguments(pipeline: Any, prompts: Sequence[str], options: Options) -> dict[str, Any]:
    """What `__call__` would hand to `encode_prompt`: its own defaults, and the options given."""
    call, encode = (inspect.signature(method).parameters for method in (pipeline.__call__, pipeline.encode_prompt))
    found = {name: call[name].default for name in ARGUMENTS if name in call and name in encode}
    found |= {name: options[name] for name in found if name in options}
    if "negative_prompt" in options and "negative_prompt" in found:
        found["negative_prompt"] = repeat_negative(prompts, options)
    return found


def default_of(pipeline: Any, name: str) -> Any:
    """The default that `__call__` has for an argument."""
    return inspect.signature(pipeline.__call__).parameters[name].default


def repeat_negative(prompts: Sequence[str], options: Options) -> list[str] | None:
    """A negative prompt for each caption, or none."""
    return [options["negative_prompt"]] * len(prompts) if "negative_prompt" in options else None


class Reached(Exception):
    """The pipeline is done with its captions."""


class Scheduler:
    """Stops whoever asks anything of it."""

    def __getattr__(self, name: str) -> Any:
        raise Reached(name)


def call_until_scheduler(pipeline: Any, **arguments: Any) -> dict[str, Any]:
    """The variables of the pipeline's own `__call__` when it first turns to its scheduler."""
    vars(pipeline)["scheduler"] = Scheduler()
    try:
        pipeline(**arguments)
    except Reached as reached:
        place = reached.__traceback__
        while place is not None:
            if place.tb_frame.f_code.co_name == "__call__":
                return dict(place.tb_frame.f_locals)
            place = place.tb_next
    raise AssertionError(f"{type(pipeline).__name__} never turned to its scheduler")


def call_with_transformer(pipeline: Any, prompts: list[str], **config: int) -> dict[str, Any]:
    """The variables of a video pipeline's call, whose transformer says how large a video is, or in what it computes."""
    transformer = SimpleNamespace(dtype=torch.bfloat16, config=SimpleNamespace(patch_size=(1, 2, 2), **config))
    sizes = {"vae_scale_factor_temporal": 4, "vae_scale_factor_spatial": 8}
    vars(pipeline).update(sizes, transformer=transformer, transformer_2=None)
    return call_until_scheduler(pipeline, prompt=prompts)
