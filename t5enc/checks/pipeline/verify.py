"""Whether captions become what a repository's own pipeline makes of them: texts, ids, masks and embeddings.

Each caption is given to the pipeline alone, and to the encoder here among all others. N captions, W width, M model dim.
"""

from __future__ import annotations

import gc
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t5enc.checkpoint.checkpoint import Checkpoint
from t5enc.checkpoint.opening import open_model
from t5enc.checkpoint.repository import infer_options
from t5enc.checks.pipeline.runs import PLACES, Pass, PipelineRun, check_diffusers, load_pipeline, record_runs
from t5enc.errors import ConfigError
from t5enc.options import EncoderOptions, ModelPlace, ModelSource, resolve_device
from t5enc.recipes.describe import describe_line
from t5enc.recipes.forms import make_null_texts, make_texts
from t5enc.recipes.recipe import Recipe
from t5enc.text.prompts import Prompt
from t5enc.text_encoder import TextEncoder

# Attention kernels differ by up to 2e-5 where rows are of size one.
TOLERANCE = 1e-4


@dataclass(slots=True)
class Check:
    """One thing that was compared, so many times; `worst` is the largest difference of numbers, None of the rest."""

    name: str
    compared: int = 0
    differing: int = 0
    worst: float | None = None
    first: str = ""

    def add(self, is_equal: bool, what: str, difference: float | None = None) -> None:
        """Count one, and keep the first that differs."""
        self.compared += 1
        if difference is not None and (self.worst is None or difference > self.worst or math.isnan(difference)):
            self.worst = difference
        if not is_equal:
            self.differing += 1
            self.first = self.first or what


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All checks, and in `failures` a sentence for each that does not hold."""

    repository: str
    pipeline: str
    recipe: str
    captions: int
    tolerance: float
    checks: tuple[Check, ...]
    failures: tuple[str, ...]


@dataclass(slots=True)
class Checks:
    """Checks by name, in the order in which they are met."""

    tolerance: float
    found: dict[str, Check] = field(default_factory=dict)

    def add(self, name: str, ours: object, theirs: object, where: str) -> None:
        """Compare two values that must be equal."""
        self._get(name).add(ours == theirs, f"{where}: expected {_shorten(theirs)}, got {_shorten(ours)}")

    def add_rows(self, name: str, ours: Tensor, theirs: Tensor, where: str) -> None:
        """Compare two tensors of one shape, whose numbers may differ by the tolerance times their size."""
        if ours.shape != theirs.shape:
            self._get(name).add(False, f"{where}: expected {tuple(theirs.shape)}, got {tuple(ours.shape)}")
            return
        difference = float((ours - theirs).abs().max()) if theirs.numel() else 0.0
        limit = self.tolerance * max(1.0, float(theirs.abs().max()) if theirs.numel() else 1.0)
        is_near = math.isfinite(difference) and difference <= limit
        self._get(name).add(is_near, f"{where}: expected at most {limit:.1e}, got {difference:.1e}", difference)

    def _get(self, name: str) -> Check:
        return self.found.setdefault(name, Check(name))


def verify_pipeline(
    place: ModelPlace,
    captions: Sequence[str],
    *,
    recipe_options: Mapping[str, Any] | None = None,
    device: str = "auto",
    tolerance: float = TOLERANCE,
) -> Comparison:
    """Compare with the pipeline of a diffusers repository, in float32; one of the two is in memory at a time.

    `recipe_options` are those of the call. ConfigError where diffusers is missing, or the pipeline is none of those
    whose code this can run.
    """
    check_diffusers()
    if not captions:
        raise ConfigError("texts: expected at least one, got none")
    asked = EncoderOptions(
        source=ModelSource.of(place), recipe_options=recipe_options or {}, device=device, dtype="float32"
    )
    checkpoint = open_model(asked.source)
    options = infer_options(asked, checkpoint.repository)
    index = _check_known(checkpoint, options)
    checks, recipe = _run_both(options, checkpoint, index, list(captions), tolerance)
    return Comparison(
        repository=asked.source.model,
        pipeline=str(index["_class_name"]),
        recipe=describe_line(recipe),
        captions=len(captions),
        tolerance=tolerance,
        checks=tuple(checks),
        failures=tuple(
            f"{check.name}: {check.differing} of {check.compared} differ; first {check.first}"
            for check in checks
            if check.differing
        ),
    )


def _run_both(
    options: EncoderOptions, checkpoint: Checkpoint, index: Mapping[str, Any], captions: list[str], tolerance: float
) -> tuple[list[Check], Recipe]:
    """The pipeline, whose tensors lie in a temporary folder, then the encoder; and the recipe, its length known."""
    recipe, device = options.find_recipe(), str(resolve_device(options.device))
    assert recipe is not None
    commit = checkpoint.provenance.get("commit") or options.source.revision
    with tempfile.TemporaryDirectory(prefix="t5enc-verify-") as scratch:
        pipeline = load_pipeline(replace(options.source, revision=commit), index, device=device)
        runs = record_runs(pipeline, recipe.name, captions, options.recipe_options, index)
        paths = [_save(run, Path(scratch, f"{place}.pt")) for place, run in enumerate(runs)]
        del pipeline, runs
        gc.collect()
        encoder = TextEncoder.load(options, checkpoint)
        assert encoder.recipe is not None
        return compare_all(encoder, captions, (_load(path) for path in paths), tolerance), encoder.recipe


def _check_known(checkpoint: Checkpoint, options: EncoderOptions) -> Mapping[str, Any]:
    """The repository's index; ConfigError where this command cannot run its pipeline."""
    if checkpoint.repository is None:
        raise ConfigError(f"pipeline: expected a diffusers repository, got {checkpoint.name} without model_index.json")
    index, recipe = checkpoint.repository.index, options.find_recipe()
    if recipe is None or recipe.name not in PLACES:
        found = f"{index.get('_class_name')} ({'no recipe is known' if recipe is None else recipe.name})"
        raise ConfigError(f"pipeline: {found} is not verified by this command; those that are: {', '.join(PLACES)}")
    return index


def _save(run: PipelineRun, path: Path) -> Path:
    torch.save(run, path)
    return path


def _load(path: Path) -> PipelineRun:
    run = torch.load(path, weights_only=False)  # written by this process
    assert isinstance(run, PipelineRun)
    return run


def compare_all(
    encoder: TextEncoder, captions: Sequence[str], runs: Iterator[PipelineRun], tolerance: float
) -> list[Check]:
    """Every check over all captions."""
    recipe, prompts = encoder.recipe, encoder.prepare(captions).prompts
    assert recipe is not None
    embeddings, checks = encoder.encode(captions), Checks(tolerance)
    for place, (caption, prompt, run) in enumerate(zip(captions, prompts, runs, strict=True)):
        where, inputs = f"texts[{place}]", embeddings[place : place + 1].to_pipeline()
        _compare_pass("", checks, encoder, make_texts(recipe, caption), prompt, run.passes[0], where)
        _compare_tensors("prompt", checks, (inputs.prompt_embeds, inputs.prompt_mask), run, where)
        if run.inputs.null_embeds is None and inputs.null_embeds is None:
            continue
        null = encoder.preparer.prepare_null()
        if null is not None and len(run.passes) > 1:
            _compare_pass("null ", checks, encoder, make_null_texts(recipe), null, run.passes[1], where)
        _compare_tensors("null", checks, (inputs.null_embeds, inputs.null_mask), run, where)
    return list(checks.found.values())


def _compare_pass(
    kind: str, checks: Checks, encoder: TextEncoder, texts: list[str], prompt: Prompt, theirs: Pass, where: str
) -> None:
    """The text, its ids with the pads of the pipeline, and how many of them the encoder may attend to."""
    # A pipeline that zeroes what is empty tokenizes it all the same.
    checks.add(f"{kind}texts", texts or [""], [theirs.text], where)
    real = prompt.documents[0].ids if prompt.documents else np.empty(0, dtype=np.int32)
    width = len(theirs.ids)
    ids = np.pad(real, (0, max(0, width - len(real))), constant_values=encoder.tokenizer.pad_id)
    checks.add(f"{kind}ids", ids.tolist(), theirs.ids.tolist(), where)
    keys = sum(document.keys for document in prompt.documents)
    mask = torch.ones(width) if theirs.mask is None else theirs.mask
    checks.add(f"{kind}mask to the encoder", [1] * keys + [0] * (width - keys), mask.int().tolist(), where)


def _compare_tensors(
    kind: str, checks: Checks, ours: tuple[Tensor | None, Tensor | None], run: PipelineRun, where: str
) -> None:
    """A mask, and the rows that it keeps; without one, all."""
    inputs = run.inputs
    pairs = {"prompt": (inputs.prompt_embeds, inputs.prompt_mask), "null": (inputs.null_embeds, inputs.null_mask)}
    embeds, mask = (None if tensor is None else tensor.cpu() for tensor in ours)
    theirs, their_mask = pairs[kind]
    checks.add(f"{kind} mask", _describe_mask(mask), _describe_mask(their_mask), where)
    if embeds is None or theirs is None:
        checks.add(f"{kind} embeds", embeds is None, theirs is None, where)
        return
    if their_mask is not None and embeds.shape == theirs.shape:
        kept = their_mask.reshape(1, theirs.shape[1], -1)[:, :, 0] != 0
        embeds, theirs = embeds[kept], theirs[kept]
    checks.add_rows(f"{kind} embeds", embeds, theirs, where)


def _describe_mask(mask: Tensor | None) -> object:
    """Dtype, shape and values."""
    return None if mask is None else (str(mask.dtype), tuple(mask.shape), mask.flatten().tolist())


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
