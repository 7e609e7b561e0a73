"""A diffusers pipeline's own encoding of captions: what reached its tokenizer and its T5, and what it made of that.

Only its text encoders and tokenizers are loaded. N captions, W width, M model dim.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from t5enc.checkpoint.repository import find_encoder_component
from t5enc.errors import CheckpointError, ConfigError
from t5enc.options import ModelSource
from t5enc.recipes.conditioning import PipelineInputs
from t5enc.recipes.inference import SETTINGS


class Places(NamedTuple):
    """Where in the answer of `encode_prompt` the tensors stand; None for what is not there.

    `is_last`: another encoder's rows come before those of T5.
    """

    embeds: int = 0
    mask: int | None = None
    null: int | None = None
    null_mask: int | None = None
    is_last: bool = False


PLAIN, MASKED = Places(null=1), Places(mask=1, null=2, null_mask=3)
PLACES: Mapping[str, Places] = {
    **dict.fromkeys(("wan", "skyreels_v2", "anyflow", "chronoedit", "lucy", "helios", "cogvideox", "cogview3"), PLAIN),
    **dict.fromkeys(("pixart_alpha", "pixart_sigma", "allegro", "ltx", "ltx_condition", "mochi", "aura_flow"), MASKED),
    "flux": Places(),
    "stable_diffusion_3": Places(null=1, is_last=True),
    "chroma": Places(mask=2, null=3, null_mask=5),
}
# Options of a recipe that are arguments of a pipeline's call; what is not given has the call's own default.
ARGUMENTS = ("max_sequence_length", "clean_caption", "negative_prompt", "negative_prompt_3")
PARTS = ("text_encoder", "tokenizer")


@dataclass(frozen=True, slots=True)
class Pass:
    """One text through T5: what the tokenizer was given, the ids (W,) and their mask, None where none was given."""

    text: str
    ids: Tensor
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class PipelineRun:
    """A caption's tensors (1, W, M), and its passes: the caption's, and that of the null prompt if it had one."""

    inputs: PipelineInputs
    passes: list[Pass]


@dataclass(slots=True)
class Recorder:
    """A tokenizer that notes the texts which it pads, as those that are encoded are."""

    tokenizer: Any
    texts: list[str] = field(default_factory=list)

    def __call__(self, texts: Any, *arguments: Any, **options: Any) -> Any:
        """What the tokenizer says; the warning of a text that is cut asks it again, without pads."""
        if options.get("padding") == "max_length":
            self.texts += [texts] if isinstance(texts, str) else texts
        return self.tokenizer(texts, *arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)


def check_diffusers() -> Any:
    """The library; ConfigError where it is not installed."""
    try:
        import diffusers
    except ImportError as error:
        raise ConfigError(
            'pipeline: needs diffusers, which is not installed: pip install "t5enc[diffusers]"'
        ) from error
    return diffusers


def load_pipeline(source: ModelSource, index: Mapping[str, Any], *, device: str) -> Any:
    """A repository's pipeline in float32 with nothing but what encodes texts."""
    diffusers = check_diffusers()
    components = [name for name, entry in index.items() if isinstance(entry, list) and not name.startswith("_")]
    absent: dict[str, Any] = {name: None for name in components if not name.startswith(PARTS)}
    asked = {name: getattr(source, name) for name in ("revision", "variant", "token", "local_files_only")}
    try:
        with _silent(diffusers):
            pipeline: Any = diffusers.DiffusionPipeline.from_pretrained(source.model, **asked, **absent)
            return pipeline.to(device, torch.float32)
    except (OSError, ValueError, ImportError) as error:
        first_line, _, _ = str(error).strip().partition("\n")
        raise CheckpointError(f"{source.model}: diffusers cannot load its text encoders: {first_line}") from error


@contextmanager
def _silent(diffusers: Any) -> Iterator[None]:
    """diffusers warns of every component that is left out."""
    logging = diffusers.utils.logging
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def record_runs(
    pipeline: Any, name: str, captions: list[str], options: Mapping[str, Any], index: Mapping[str, Any]
) -> Iterator[PipelineRun]:
    """What the pipeline makes of each caption alone, under a call with these options."""
    component = find_encoder_component(index, type(pipeline).__name__)
    tokenizer = component.replace("text_encoder", "tokenizer")
    recorder = Recorder(getattr(pipeline, tokenizer))
    _check_options(pipeline, options)
    pipeline.register_to_config(**{name: value for name, value in options.items() if name in SETTINGS})
    given: list[tuple[Tensor, Tensor | None]] = []
    encoder = getattr(pipeline, component)
    hook = encoder.register_forward_pre_hook(_note_into(given), with_kwargs=True)
    vars(pipeline)[tokenizer] = recorder
    try:
        with _silent(check_diffusers()):
            for caption in captions:
                recorder.texts.clear()
                given.clear()
                inputs = _encode(pipeline, PLACES[name], caption, options)
                passes = [Pass(text, *pair) for text, pair in zip(recorder.texts, given, strict=True)]
                yield PipelineRun(inputs, passes)
    finally:
        hook.remove()
        vars(pipeline)[tokenizer] = recorder.tokenizer


def _check_options(pipeline: Any, options: Mapping[str, Any]) -> None:
    """ConfigError for an option that `encode_prompt` does not have: the call heeds it elsewhere."""
    possible = [*find_arguments(pipeline, {}), *SETTINGS]
    for name in options:
        if name not in possible:
            raise ConfigError(f"{name}: {type(pipeline).__name__}.encode_prompt has no such argument to verify it with")


def _note_into(given: list[tuple[Tensor, Tensor | None]]) -> Callable[[Any, tuple[Any, ...], dict[str, Any]], None]:
    def note(module: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        ids = arguments[0] if arguments else options["input_ids"]
        mask = arguments[1] if len(arguments) > 1 else options.get("attention_mask")
        given.append((ids[0].cpu(), None if mask is None else mask[0].cpu()))

    return note


@torch.no_grad()
def _encode(pipeline: Any, places: Places, caption: str, options: Mapping[str, Any]) -> PipelineInputs:
    arguments = find_arguments(pipeline, options)
    answer = pipeline.encode_prompt([caption], device=pipeline.text_encoder.device, **arguments)
    width = arguments["max_sequence_length"] if places.is_last else None

    def pick(place: int | None) -> Any:
        return None if place is None else answer[place][:, -(width or 0) :].cpu()

    return PipelineInputs(pick(places.embeds), pick(places.mask), pick(places.null), pick(places.null_mask))


def find_arguments(pipeline: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the pipeline's `__call__` hands to `encode_prompt`: the options given, its own defaults otherwise."""
    call, encode = (inspect.signature(method).parameters for method in (pipeline.__call__, pipeline.encode_prompt))
    found = {name: call[name].default for name in ARGUMENTS if name in call and name in encode}
    found |= {name: options[name] for name in found if name in options}
    prompts = {name: None for name in ("prompt_2", "prompt_3") if name in encode}
    return found | prompts
