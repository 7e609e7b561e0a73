"""What a job will take before it is run: tokens, shards, bytes, hours, money."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import pyarrow.compute as pc
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.inputs.columns.words import describe_columns
from pipelines.job import EncodeJob
from pipelines.plan.plan import Units
from pipelines.progress.report import describe_cuts
from pipelines.run.resolved_job import SPEEDS, ResolvedJob, flops_per_token, resolve_job, seconds_per_token
from pipelines.run.sample import Sample
from pipelines.run.sample_repeats import RepeatsSample, sample_repeats
from t5enc.checkpoint.opening import open_model
from t5enc.errors import ConfigError, ExitCode, show_invisible
from t5enc.storage import usual_token_bytes
from t5enc.text.preparer import open_preparer

# Bytes of a row besides its embedding and what is kept: key, shape, dtype, flags.
ROW_BYTES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What a device-hour and a stored terabyte-month cost, and how many devices work at once."""

    hour: float
    terabyte_month: float
    devices: int = 1

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise ConfigError(f"devices: expected at least 1, got {self.devices}")
        if min(self.hour, self.terabyte_month) < 0:
            raise ConfigError(f"prices: expected none below 0, got {self.hour:g} and {self.terabyte_month:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Figures for the whole input, extrapolated from a sample."""

    files: int
    rows: int
    captions: int
    tokens: int
    kept: int
    truncated: int
    longest: int
    shards: int
    read: int
    beside: int
    bytes: int
    embedding_bytes: int
    flops_per_token: float
    device_hours: float

    def wall_hours(self, prices: Prices) -> float:
        """Hours with this many devices."""
        return self.device_hours / prices.devices

    def encode_cost(self, prices: Prices) -> float:
        """Price of encoding everything once."""
        return self.device_hours * prices.hour

    def storage_cost(self, prices: Prices) -> float:
        """Price of keeping the output for a month."""
        return self.bytes / 1e12 * prices.terabyte_month


def estimate(resolved: ResolvedJob, tokens_per_second: float | None = None) -> Estimate:
    """Extrapolate from the sample; a rate that was measured beats the guess."""
    sample, config = resolved.sample, resolved.config
    rows = resolved.files.total_rows
    captions = round(rows * sample.captions_per_row) if sample.rows else 0
    beside = round(rows * sample.kept_bytes / sample.rows) if sample.rows else 0
    tokens = round(captions * sample.mean_computed)
    kept = round(captions * sample.mean)
    device = str(resolved.frozen.record["device"]).partition(":")[0]
    seconds = tokens / tokens_per_second if tokens_per_second else tokens * seconds_per_token(config, device)
    size = usual_token_bytes(resolved.frozen.storage_dtype, resolved.frozen.dim)
    return Estimate(
        files=len(resolved.files),
        rows=rows,
        captions=captions,
        tokens=tokens,
        kept=kept,
        truncated=round(captions * sample.truncated / max(1, len(sample.lengths))),
        longest=sample.longest,
        shards=len(Units.of(resolved.files, resolved.frozen)),
        read=int(pc.sum(resolved.files.table["size"]).as_py() or 0),
        beside=beside,
        embedding_bytes=kept * size,
        bytes=kept * size + captions * ROW_BYTES + beside,
        flops_per_token=flops_per_token(config),
        device_hours=seconds / 3600,
    )


def print_estimate(
    job: EncodeJob, prices: Prices, tokens_per_second: float | None, *, codecs: bool = False
) -> ExitCode:
    """Resolve the job, estimate, print, inputs that cannot be read last; what the command ends with for them.

    With `codecs`, a few captions are encoded to compare the ways to store them.
    """
    if tokens_per_second is not None and tokens_per_second <= 0:
        raise ConfigError(f"tokens_per_second: expected more than 0, got {tokens_per_second:g}")
    resolved = resolve_job(job, device_to_plan(job.encoder.device))
    frozen, found = resolved.frozen, estimate(resolved, tokens_per_second)
    checkpoint = open_model(resolved.options.source, with_weights=False)
    repeats = sample_repeats(resolved, job, open_preparer(resolved.options, checkpoint))
    cuts = describe_cuts(found.truncated, found.captions, found.longest, frozen.identity["max_length"])
    basis = "as measured" if tokens_per_second else "a rough guess; measure yours with `t5enc bench`"
    table = Table("figure", "estimate", title=f"plan for {job.encoder.source.model}", title_justify="left")
    for name, value in {
        "input": f"{found.files:,} files, {found.rows:,} rows, {found.captions:,} captions, {found.read / 1e9:,.3g} GB",
        "no text": describe_reasons(resolved.sample),
        **describe_columns(resolved.columns),
        "recipe": frozen.describe_recipe() or "none",
        "tokens": f"{found.tokens:,} computed, {found.kept:,} rows stored",
        "captions cut": f"{cuts}, of the sample",
        "equal captions": describe_repeats(repeats, found),
        "output": f"{found.shards:,} shards, {found.bytes / 1e9:,.3g} GB, of that {found.beside / 1e9:,.3g} GB as kept",
        "compute": f"{found.flops_per_token / 1e9:,.3g} GFLOP a token, {found.device_hours:,.3g} device-hours, {basis}",
        "time": f"{timedelta(seconds=round(3600 * found.wall_hours(prices)))} on {prices.devices} device(s)",
        "encoding once": f"{found.encode_cost(prices):,.3g}",
        "storing a month": f"{found.storage_cost(prices):,.3g}",
        "advice": advise(found, prices),
    }.items():
        table.add_row(name, escape(value))
    console = Console()
    console.print(table)
    if codecs:
        from pipelines.commands.codecs import compare_codecs

        console.print(compare_codecs(resolved, tokens=found.kept, beside=found.bytes - found.embedding_bytes))
    for reason in resolved.unreadable.values():
        console.print(f"not read: {show_invisible(reason)}", markup=False, highlight=False, soft_wrap=True)
    return ExitCode.INPUTS_UNREADABLE if resolved.unreadable else ExitCode.DONE


def describe_reasons(sample: Sample) -> str:
    """How many captions of the sample have none, and why."""
    told = ", ".join(f"{count:,} {reason}" for reason, count in sample.reasons.items())
    return f"{told or 'none'} of {sample.captions:,} captions in {sample.rows:,} rows of the sample"


def describe_repeats(sample: RepeatsSample, found: Estimate, cores: int | None = None) -> str:
    """What share of the work comes again, as far as a sample tells, and whether `--dedup job` pays on these cores."""
    cores = cores or os.cpu_count() or 1
    pass_hours = found.captions * sample.seconds_per_caption / cores / 3600
    saved = sample.share * found.device_hours
    least = pass_hours / found.device_hours if found.device_hours else 1.0
    pays = "pays" if saved > pass_hours else f"pays where at least {least:.2%} come again"
    return (
        f"{sample.repeated:,} of {sample.captions:,} captions at {sample.places} places came again in another shard, "
        f"{sample.share:.1%} of the tokens: a lower bound for all of them. --dedup job tokenizes all captions first, "
        f"{pass_hours:,.3g} hours on {cores} core(s), to save at least {saved:,.3g} device-hours: it {pays}"
    )


def device_to_plan(name: str | None) -> torch.device:
    """The device that work is sized for, which need not be here; ConfigError where there is no such kind."""
    kind = "cpu" if name in (None, "auto") else str(name).partition(":")[0]
    if kind not in SPEEDS:
        raise ConfigError(f"device: expected auto, {' or '.join(SPEEDS)}, got {name!r}")
    return torch.device(kind)


def advise(found: Estimate, prices: Prices) -> str:
    """Whether to store embeddings or to encode captions anew in every epoch."""
    encode, store = found.encode_cost(prices), found.storage_cost(prices)
    if encode <= 0:
        return "nothing to encode"
    epochs = 1 + store / encode
    if epochs < 2:
        return "store: a second epoch within a month already costs more to encode anew"
    return f"encode on the fly, unless you read the captions more than {epochs:,.1f} times a month"
