"""diffusers' own encoding code, run with a tiny encoder and none of a pipeline's other parts.

Each family says which class it is, which encoder it has, and how a list of captions is encoded with the options of a
call. What the call does not name has the default of the class's `__call__`, not that of an inner function.
N captions, W width, M model dim.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from t5enc.recipes.conditioning import PipelineInputs

CPU = torch.device("cpu")
Options = Mapping[str, Any]
Encode = Callable[[Any, list[str], Options], PipelineInputs]
# The options that are arguments of a call; the others are the checkpoint's, or make the caption.
ARGUMENTS = ("max_sequence_length", "clean_caption", "mask_feature", "negative_prompt", "negative_prompt_3")


@dataclass(frozen=True, slots=True)
class Family:
    """A class of diffusers, the kind of its T5 encoder, its places in the pipeline, and how it encodes."""

    class_name: str
    encode: Encode
    kind: str = "t5"
    limit: int | None = None
    place: str = "text_encoder"
    tokenizer_place: str = "tokenizer"


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


def find_arguments(pipeline: Any, prompts: Sequence[str], options: Options) -> dict[str, Any]:
    """What `__call__` would hand to `encode_prompt`: its own defaults, and the options given."""
    call, encode = (inspect.signature(method).parameters for method in (pipeline.__call__, pipeline.encode_prompt))
    found = {name: call[name].default for name in ARGUMENTS if name in call and name in encode}
    found |= {name: options[name] for name in found if name in options}
    if "negative_prompt" in options and "negative_prompt" in found:
        found["negative_prompt"] = repeat_negative(prompts, options)
    return found


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


def default_of(pipeline: Any, name: str) -> Any:
    """The default that `__call__` has for an argument."""
    return inspect.signature(pipeline.__call__).parameters[name].default


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


T5_2 = {"place": "text_encoder_2", "tokenizer_place": "tokenizer_2"}
T5_3 = {"place": "text_encoder_3", "tokenizer_place": "tokenizer_3"}
FAMILIES: Mapping[str, Family] = {
    "wan": Family("WanPipeline", PLAIN, "umt5"),
    "skyreels_v2": Family("SkyReelsV2Pipeline", PLAIN, "umt5"),
    "anyflow": Family("AnyFlowPipeline", PLAIN, "umt5"),
    "chronoedit": Family("ChronoEditPipeline", PLAIN, "umt5"),
    "lucy": Family("LucyEditPipeline", PLAIN, "umt5"),
    "helios": Family("HeliosPipeline", PLAIN, "umt5"),
    "longcat_audio_dit": Family("LongCatAudioDiTPipeline", encode_longcat, "umt5"),
    "aura_flow": Family("AuraFlowPipeline", MASKED, "llama"),
    "flux": Family("FluxPipeline", encode_flux, **T5_2),
    "visualcloze": Family("VisualClozeGenerationPipeline", encode_visualcloze, **T5_2),
    "stable_diffusion_3": Family("StableDiffusion3Pipeline", encode_sd3, **T5_3),
    "hidream_image": Family("HiDreamImagePipeline", encode_hidream, limit=100, **T5_3),
    "chroma": Family("ChromaPipeline", encode_returned(0, 2, 3, 5)),
    "bria": Family("BriaPipeline", PLAIN),
    "pixart_alpha": Family("PixArtAlphaPipeline", MASKED),
    "pixart_sigma": Family("PixArtSigmaPipeline", MASKED),
    "allegro": Family("AllegroPipeline", MASKED),
    "latte": Family("LattePipeline", PLAIN),
    "deepfloyd_if": Family("IFPipeline", PLAIN),
    "hunyuandit": Family("HunyuanDiTPipeline", encode_hunyuandit, "mt5", **T5_2),
    "kandinsky3": Family("Kandinsky3Pipeline", encode_kandinsky3, "silu"),
    "ltx": Family("LTXPipeline", MASKED),
    "ltx_condition": Family("LTXConditionPipeline", MASKED),
    "mochi": Family("MochiPipeline", MASKED),
    "cogvideox": Family("CogVideoXPipeline", PLAIN),
    "consisid": Family("ConsisIDPipeline", PLAIN),
    "cogview3": Family("CogView3PlusPipeline", PLAIN),
    "cosmos": Family("CosmosTextToWorldPipeline", PLAIN, "relu"),
    "stable_audio": Family("StableAudioPipeline", encode_stable_audio, "relu", limit=128),
    "audioldm2": Family("AudioLDM2Pipeline", encode_audioldm2, limit=512, **T5_2),
    "glm_image": Family("GlmImagePipeline", PLAIN, "byt5"),
    "hunyuan_image": Family("HunyuanImagePipeline", encode_glyphs, "byt5", **T5_2),
    "hunyuan_video1_5": Family("HunyuanVideo15Pipeline", encode_glyphs, "byt5", **T5_2),
}
