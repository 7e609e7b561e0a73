"""How each family encodes a list of captions with the options of a call, by diffusers' own code.

N captions, W width, M model dim.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from t5enc.recipes.conditioning import PipelineInputs
from tests.t5enc.recipes.pipelines.calls import (
    CPU,
    Options,
    call_until_scheduler,
    default_of,
    find_arguments,
    repeat_negative,
)

Encode = Callable[[Any, list[str], Options], PipelineInputs]


def encode_returned(*places: int | None, skip: int = 0, **fixed: Any) -> Encode:
    """`encode_prompt`'s answer, with the places of embeds, mask, null embeds and null mask in it.

    `skip` rows before those of T5 are another encoder's.
    """

    def encode(pipeline: Any, prompts: list[str], options: Options) -> PipelineInputs:
        arguments = find_arguments(pipeline, prompts, options) | fixed
        answer = pipeline.encode_prompt(prompts, device=CPU, **arguments)
        found = [None if place is None else answer[place] for place in places]
        return PipelineInputs(*(part if part is None or not skip else part[:, skip:] for part in found))

    return encode


PLAIN = encode_returned(0, None, 1, None)
MASKED = encode_returned(0, 1, 2, 3)


def stub_clip(pipeline: Any, rows: int) -> None:
    """CLIP's part of an answer, which is not looked at: a vector a caption, after so many rows if any."""

    def encode_clip(*values: Any, prompt: list[str] | None = None, **_: Any) -> Any:
        prompts = prompt or next(value for value in values if isinstance(value, list))
        pooled = torch.zeros(len(prompts), 8)
        return (torch.zeros(len(prompts), rows, 8), pooled) if rows else pooled

    vars(pipeline)["_get_clip_prompt_embeds"] = encode_clip


def encode_flux(pipeline: Any, prompts: list[str], options: Options) -> PipelineInputs:
    """A negative prompt is encoded by a second call of the same function, as true guidance does it."""
    stub_clip(pipeline, 0)
    length = {"max_sequence_length": options.get("max_sequence_length", default_of(pipeline, "max_sequence_length"))}
    found = pipeline.encode_prompt(prompts, prompt_2=None, **length)[0]
    if "negative_prompt" not in options:
        return PipelineInputs(found, None, None, None)
    negative = [[options[name]] * len(prompts) if options.get(name) else None for name in NEGATIVES]
    null = pipeline.encode_prompt(negative[0] or [""] * len(prompts), prompt_2=negative[1], **length)[0]
    return PipelineInputs(found, None, null, None)


NEGATIVES = ("negative_prompt", "negative_prompt_2")


def encode_visualcloze(pipeline: Any, prompts: list[str], options: Options) -> PipelineInputs:
    """Layout and task are the same for all captions; a grid's layout is what the pipeline's processor writes."""
    from diffusers.pipelines.visualcloze.visualcloze_utils import VisualClozeProcessor

    stub_clip(pipeline, 0)
    layout = options.get("layout_prompt")
    if "grid" in options:
        size = tuple(int(count) for count in options["grid"].split("x"))
        layout = VisualClozeProcessor.get_layout_prompt(None, size)
    count = len(prompts)
    length = options.get("max_sequence_length", default_of(pipeline, "max_sequence_length"))
    answer = pipeline.encode_prompt(
        [layout] * count, [options.get("task_prompt")] * count, prompts, max_sequence_length=length
    )
    return PipelineInputs(answer[0], None, None, None)


def encode_sd3(pipeline: Any, prompts: list[str], options: Options) -> PipelineInputs:
    """T5's rows come after 77 of CLIP's."""
    stub_clip(pipeline, 77)
    return encode_returned(0, None, 1, None, skip=77, prompt_2=None, prompt_3=None)(pipeline, prompts, options)


def encode_hidream(pipeline: Any, prompts: list[str], options: Options) -> PipelineInputs:
    """CLIP and Llama are streams of their own."""
    stub_clip(pipeline, 0)
    vars(pipeline)["_get_llama3_prompt_embeds"] = lambda prompts, *_: torch.zeros(2, len(prompts), 2, 8)
    return PLAIN(pipeline, prompts, options)


def encode_kandinsky3(pipeline: Any, prompts: list[str], options: Options) -> PipelineInputs:
    """Its call cuts the context."""
    return encode_returned(0, 2, 1, 3, _cut_context=True)(pipeline, prompts, options)


def encode_hunyuandit(pipeline: Any, prompts: list[str], options: Options) -> PipelineInputs:
    """The second encoder, at the length that the call writes out."""
    length = options.get("max_sequence_length", 256)
    encode = encode_returned(0, 2, 1, 3, text_encoder_index=1, max_sequence_length=length)
    return encode(pipeline, prompts, options)


def encode_stable_audio(pipeline: Any, prompts: list[str], options: Options) -> PipelineInputs:
    """The call up to its scheduler: a null before the captions in one batch, two rows of duration after each text."""
    from diffusers import StableAudioProjectionModel

    width = pipeline.text_encoder.config.d_model
    vars(pipeline).update(
        projection_model=StableAudioProjectionModel(width, width, 0, 512).eval(),
        transformer=SimpleNamespace(config=SimpleNamespace(sample_size=64, in_channels=4)),
        vae=SimpleNamespace(hop_length=8, config=SimpleNamespace(sampling_rate=16, audio_channels=2)),
    )
    values = call_until_scheduler(pipeline, prompt=prompts, negative_prompt=repeat_negative(prompts, options))
    null, found = values["text_audio_duration_embeds"][:, :-2].chunk(2)
    return PipelineInputs(found, None, null, None)


def encode_longcat(pipeline: Any, prompts: list[str], options: Options) -> PipelineInputs:
    """The call up to its scheduler, which cleans captions and makes masks of lengths."""
    vars(pipeline).update(
        sample_rate=16,
        vae_scale_factor=4,
        latent_dim=4,
        max_wav_duration=30.0,
        text_norm_feat=True,
        text_add_embed=True,
    )
    values = call_until_scheduler(pipeline, prompt=prompts, negative_prompt=repeat_negative(prompts, options))
    names = ("prompt_embeds", "text_mask", "negative_prompt_embeds", "negative_prompt_embeds_mask")
    return PipelineInputs(*(values[name] for name in names))


def encode_audioldm2(pipeline: Any, prompts: list[str], options: Options) -> PipelineInputs:
    """T5's rows, the null's before the captions'; CLAP, the projection and GPT-2 stand beside."""
    width = pipeline.text_encoder_2.config.d_model
    clap = SimpleNamespace(
        config=SimpleNamespace(model_type="clap"), get_text_features=lambda ids, **_: torch.zeros(len(ids), width)
    )
    vars(pipeline).update(
        text_encoder=clap,
        tokenizer=pipeline.tokenizer_2,
        projection_model=lambda **given: SimpleNamespace(
            hidden_states=given["hidden_states"], attention_mask=given["attention_mask"]
        ),
        generate_language_model=lambda embeds, **_: embeds,
    )
    negative = repeat_negative(prompts, options)
    embeds, mask, _ = pipeline.encode_prompt(prompts, CPU, 1, True, negative_prompt=negative)
    halves: list[tuple[Tensor, Tensor]] = [part.chunk(2) for part in (embeds, mask)]
    return PipelineInputs(halves[0][1], halves[1][1], halves[0][0], halves[1][0])


def encode_glyphs(pipeline: Any, prompts: list[str], options: Options) -> PipelineInputs:
    """The glyph stream of captions, and by a second call that of the null; the main stream's part is not looked at.

    How long a glyph text may be is what the pipeline's constructor writes down.
    """
    vars(pipeline)["tokenizer_2_max_length"] = find_written_length(pipeline)
    main = torch.zeros(len(prompts), 1, 1), torch.zeros(len(prompts), 1)
    for name in ("_get_qwen_prompt_embeds", "_get_mllm_prompt_embeds"):
        vars(pipeline)[name] = lambda **_: main
    count = len(prompts)
    found = pipeline.encode_prompt(prompts, CPU, batch_size=count)[2:]
    null = pipeline.encode_prompt(repeat_negative(prompts, options), CPU, batch_size=count)[2:]
    return PipelineInputs(*found, *null)


def find_written_length(pipeline: Any) -> int:
    """The number that a constructor writes down, read from its source since it needs all parts to run."""
    found = re.search(r"self\.tokenizer_2_max_length = (\d+)", inspect.getsource(type(pipeline).__mro__[1].__init__))
    assert found is not None
    return int(found[1])
