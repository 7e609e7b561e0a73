"""How near an encoder comes to transformers in float32, in every dtype and beside transformers in the same dtype.

The measure is the absolute difference of all elements of the hidden states over padded batches of many texts, real
tokens and pads apart. Models are loaded one at a time; the reference's states lie in a temporary folder, so memory
holds one model and one batch.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from t5enc.checks.json_report import read_versions
from t5enc.checks.precision.contenders import Contender, list_contenders, load_transformers, open_source
from t5enc.checks.precision.differences import (
    LEVELS,
    Difference,
    Differences,
    Reference,
    WorstToken,
    describe,
    encode_batch,
    make_batches,
)
from t5enc.errors import CheckpointError, ConfigError
from t5enc.model.precision import resolve_dtype
from t5enc.options import EncoderOptions
from t5enc.text.tokenizer import Tokenizer

DTYPES = ("float32", "bfloat16", "float16")
# Sums in another order, and no more.
FLOAT32_TOLERANCE = 2e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How far one contender is from the reference; `pads` is None where no batch had any."""

    name: str
    dtype: str
    is_ours: bool
    real: Difference
    pads: Difference | None
    relative_l2: float
    non_finite: int
    worst: WorstToken


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All results, and in `failures` what of ours is past the tolerance; `skipped` maps contenders to reasons."""

    model: str
    device: str
    attention: str
    texts: int
    tokens: int
    pads: int
    batch_size: int
    max_length: int
    tolerance: float | None
    versions: dict[str, str]
    results: tuple[Result, ...]
    skipped: dict[str, str]
    failures: tuple[str, ...]


def verify(
    options: EncoderOptions,
    texts: Sequence[str],
    *,
    dtypes: Sequence[str] = DTYPES,
    batch_size: int = 8,
    tolerance: float | None = None,
    peers: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Measure every contender on these texts, in padded batches of mixed lengths.

    `tolerance` is the relative L2 distance that ours may have in any dtype; without it, 2e-5 in float32, and in 16 bit
    no quantile of real tokens above that of transformers in the same dtype.
    Raises ConfigError for what transformers cannot load, PrecisionError where the reference itself is not finite.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size: expected at least 1, got {batch_size}")
    if not texts:
        raise ConfigError("texts: expected at least one, got none")
    names = [str(resolve_dtype(dtype, torch.device("cpu"))).removeprefix("torch.") for dtype in dtypes]
    with tempfile.TemporaryDirectory(prefix="t5enc-verify-") as scratch:
        source, tokenizer, options = open_source(options, Path(scratch))
        contenders = list_contenders(source, names, peers=peers)
        batches = make_batches(tokenizer, texts, batch_size)
        progress("transformers float32, the reference")
        reference = Reference(Path(scratch), load_transformers(source, "float32"), batches, source.device)
        results, skipped = measure_all(contenders, reference, tokenizer, progress)
    return Report(
        model=options.source.model,
        device=source.device,
        attention=source.attention,
        texts=len(texts),
        tokens=sum(int(batch.mask.sum()) for batch in batches),
        pads=sum(int((~batch.mask).sum()) for batch in batches),
        batch_size=batch_size,
        max_length=options.length,
        tolerance=tolerance,
        versions=read_versions(),
        results=tuple(results),
        skipped=skipped,
        failures=tuple(find_failures(results, tolerance)),
    )


def measure_all(
    contenders: Sequence[Contender], reference: Reference, tokenizer: Tokenizer, progress: Callable[[str], None]
) -> tuple[list[Result], dict[str, str]]:
    """Results of those that can be had, and why the others cannot: norms whose scales cannot be fused."""
    results, skipped = [], {}
    for contender in contenders:
        free_memory()
        progress(f"{contender.name} {contender.dtype}")
        try:
            results.append(measure(contender, reference, tokenizer))
        except CheckpointError as error:
            if not contender.is_optional:
                raise
            skipped[f"{contender.name} {contender.dtype}"] = str(error)
    return results, skipped


def free_memory() -> None:
    """Give back what the last model held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measure(contender: Contender, reference: Reference, tokenizer: Tokenizer) -> Result:
    """One contender over all batches; CheckpointError where it cannot be made of these weights."""
    model = contender.load()
    differences = Differences()
    for batch, expected in reference:
        differences.add(encode_batch(model, batch, reference.device).float(), expected, batch)
    return Result(
        name=contender.name,
        dtype=contender.dtype,
        is_ours=contender.is_ours,
        real=describe(differences.real),
        pads=describe(differences.pads) if differences.pads.count else None,
        relative_l2=differences.relative_l2,
        non_finite=differences.non_finite,
        worst=differences.find_worst(reference.batches, tokenizer),
    )


def find_failures(results: Sequence[Result], tolerance: float | None) -> list[str]:
    """A sentence for everything of ours that is not finite, or further from the reference than it may be."""
    peers = {result.dtype: result for result in results if result.name == "transformers"}
    return [
        f"{result.name} {result.dtype}: {reason}; {_name_token(result.worst)}"
        for result in results
        if result.is_ours
        for reason in _find_reasons(result, peers.get(result.dtype), tolerance)
    ]


def _name_token(worst: WorstToken) -> str:
    place = f"texts[{worst.text}] ({worst.excerpt!r}), token {worst.position} ({worst.piece!r})"
    return f"worst in {place}, relative error {worst.error:.1e}"


def _find_reasons(result: Result, peer: Result | None, tolerance: float | None) -> Iterator[str]:
    if result.non_finite:
        yield f"{result.non_finite} values are not finite"
    if tolerance is not None or peer is None:
        limit = FLOAT32_TOLERANCE if tolerance is None else tolerance
        if not result.relative_l2 <= limit:
            yield f"relative L2 distance: expected at most {limit:g}, got {result.relative_l2:.2e}"
        return
    for level, ours, theirs in zip(LEVELS, result.real.quantiles, peer.real.quantiles, strict=True):
        if not ours <= theirs:
            yield f"quantile {level} of real tokens: expected at most transformers' {theirs:.3g}, got {ours:.3g}"
            return
