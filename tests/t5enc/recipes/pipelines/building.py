"""A family's pipeline with a tiny encoder and none of its other parts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.t5enc.recipes.pipelines.calls import CPU, Options
from tests.t5enc.recipes.pipelines.families import Family


def build(family: Family, tokenizer: Any, encoder: Any, options: Options) -> Any:
    """The family's pipeline with its T5 and nothing else; what its code asks of the other parts stands in for them."""
    config = {name: options.get(name, default) for name, default in CONFIG.items()}
    stand_ins = {"_execution_device": CPU, "config": SimpleNamespace(**config)}
    pipeline_class: Any = type(family.class_name, (find_class(family.class_name),), stand_ins)
    pipeline = object.__new__(pipeline_class)
    vars(pipeline).update(dict.fromkeys(PARTS, SimpleNamespace(dtype=encoder.dtype)), **WRITTEN_DOWN)
    vars(pipeline).update({family.place: encoder, family.tokenizer_place: tokenizer})
    return pipeline


def find_class(name: str) -> type:
    """A pipeline's class; ConsisID's is hidden where OpenCV is missing, which its encoding does not need."""
    import diffusers

    if name == "ConsisIDPipeline":
        from diffusers.pipelines.consisid.pipeline_consisid import ConsisIDPipeline

        return ConsisIDPipeline
    found: type = getattr(diffusers, name)
    return found


# The options that a checkpoint's config has, with the class's own default.
CONFIG = {"force_zeros_for_empty_prompt": False, "boundary_ratio": None, "expand_timesteps": False}
PARTS = [f"{part}{place}" for part in ("text_encoder", "tokenizer") for place in ("", "_2", "_3", "_4")]
PARTS += ["transformer", "language_model"]
# What constructors write down for the parts that are not there.
WRITTEN_DOWN = {"tokenizer_max_length": 77, "prompt_template_encode": "", "system_message": ""}
WRITTEN_DOWN |= {"prompt_template_encode_start_idx": 0}
