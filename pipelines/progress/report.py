"""What a run did, as numbers, as JSON, as a page and as text."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from pipelines.job import FrozenJob
from pipelines.progress.charts import show_seconds
from pipelines.progress.findings import Reason
from pipelines.progress.ledger import Details, Progress
from pipelines.progress.storage_error import StorageError
from pipelines.stores.store import Store
from t5enc.errors import ExitCode, show_invisible
from t5enc.storage.layout import PAGE, REPORT, SHARED, STALE

# Earlier runs of a job, and inputs of it, that a report names.
MOST_RUNS = 50
MOST_INPUTS = 20
# Files without an embedding that are named.
MOST_BARE = 5
# Tokens by which it is told how fast a run's models were.
LEAST_TOKENS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeReport:
    """Totals of the output, and what this run contributed.

    `dedup` is what was found of captions that occur more than once, where they were looked for.
    `recipe` says which one embeddings are made by and how it was chosen, `max_length` where captions are cut,
    `missing` which outputs to reuse are not there, `put_aside` how many shards that no longer fit were, and
    `weaknesses` what the output's disk does not keep that others do.
    """

    output: str
    totals: dict[str, int]
    max_length: int = 0
    recipe: str | None = None
    dedup: dict[str, int | float] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    put_aside: int = 0
    bare: list[str] = field(default_factory=list)
    weaknesses: tuple[str, ...] = ()
    progress: Progress = field(default_factory=Progress)
    details: Details = field(default_factory=Details)
    job: dict[str, Any] = field(default_factory=dict)
    began: str = ""
    earlier_runs: list[dict[str, Any]] = field(default_factory=list)
    wall_seconds: float = 0.0
    driver_cpu_seconds: float = 0.0
    spans: int = 0
    storage_error: StorageError = field(default_factory=StorageError)
    is_finished: bool = False
    is_running: bool = False

    @property
    def exit_code(self) -> ExitCode:
        """What the command line ends with."""
        if self.unreadable:
            return ExitCode.INPUTS_UNREADABLE
        return ExitCode.CAPTIONS_DIED if self.totals["died"] else ExitCode.DONE

    @property
    def tokens_per_second(self) -> float:
        """Useful tokens a second of this run that were not reused, from the moment its actors were ready."""
        return self.progress.counts.new_tokens / self.run_seconds if self.run_seconds else 0.0

    @property
    def seconds_saved(self) -> float:
        """Seconds of a model's work that the tokens of other outputs would have taken; 0 where too few others tell."""
        counts, cost = self.progress.counts, self.progress.cost
        if counts.new_tokens < LEAST_TOKENS:
            return 0.0
        return cost.busy_seconds / counts.new_tokens * self.details.findings.reused_tokens

    @property
    def captions_reused(self) -> int:
        """Those of this run that were copied of other outputs."""
        return sum(self.details.findings.reused.values())

    @property
    def not_reused(self) -> dict[str, str]:
        """Why nothing or not all was had of some earlier outputs."""
        return self.missing | self.details.findings.troubles

    @property
    def run_seconds(self) -> float:
        """Seconds of the running phase: from the first actor that was ready to the last commit."""
        return self.progress.seconds

    def to_json(self) -> str:
        """The report as it is written into the output."""
        content = asdict(self)
        content["storage_error"] = self.storage_error.to_json()
        content["progress"] = _flatten(content["progress"])
        content["details"]["places"] = [_flatten(place) for place in content["details"]["places"]]
        content |= {
            "run_seconds": round(self.run_seconds, 3),
            "tokens_per_second": round(self.tokens_per_second, 1),
            "fill": round(self.progress.fill, 4),
            "reuse": {
                "outputs": self.details.findings.reused,
                "captions": self.captions_reused,
                "tokens": self.details.findings.reused_tokens,
                "seconds_saved": round(self.seconds_saved, 1),
                "not_reused": self.not_reused,
            },
            "cores_used_while_encoding": round(self.cores_used, 2),
            "state": self.state,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": read_versions(),
        }
        return json.dumps(content, indent=2)

    @property
    def state(self) -> str:
        """How far the job is, as far as this run knows."""
        if self.is_running:
            return "running"
        return "finished" if self.is_finished else "unfinished"

    @property
    def cores_used(self) -> float:
        """CPU seconds of the actors' processes for each second their models worked."""
        cost = self.progress.cost
        return cost.busy_cpu_seconds / cost.busy_seconds if cost.busy_seconds else 0.0

    def __str__(self) -> str:
        totals = self.totals
        lines = [
            f"{self.output}: {totals['captions']:,} captions in {totals['shards']:,} shards, "
            f"{totals['tokens']:,} {'tokens' if self.recipe is None else 'rows'}, {totals['size'] / 1e6:,.1f} MB",
            f"  encoded {totals['encoded']:,}, without embedding {totals['errors']:,} "
            f"(of those {totals['died']:,} killed the encoder)",
            f"  {describe_cuts(totals['truncated'], totals['captions'], totals['longest'], self.max_length)}",
        ]
        lines += self._tell_reasons()
        if mended := totals.get("mended"):
            lines.append(f"  {mended:,} texts of kept columns were not UTF-8: their bad bytes are U+FFFD in the output")
        if self.storage_error.tokens:
            lines.append(f"  stored as {self.job.get('storage_dtype')}: {self.storage_error}")
        if self.recipe is not None:
            lines.append(f"  recipe {self.recipe}")
        if self.progress.cost.units:
            lines.append(
                f"  this run: {self.progress.counts.captions:,} captions in {self.run_seconds:.1f} s of "
                f"{self.wall_seconds:.1f} s in all, {self.tokens_per_second:,.0f} useful tokens/s, "
                f"streams {self.progress.fill:.1%} full, {self.cores_used:.1f} cores at work"
            )
        lines += [*self._tell_dedup(), *self._tell_reuse()]
        if self.put_aside:
            lines.append(
                f"  put aside in {STALE}/: {self.put_aside:,} shards that do not fit the inputs as they are now"
            )
        lines += [f"  weaker than elsewhere: {weakness}" for weakness in self.weaknesses]
        lines += [f"  not read: {show_invisible(reason)}" for reason in self.unreadable.values()]
        if not self.is_finished:
            lines.append("  unfinished: mend or remove the inputs named above and run the same command again")
        return "\n".join(lines)

    def _tell_dedup(self) -> list[str]:
        """What captions that occur more than once came to, and how many refer to an embedding that is stored once."""
        found, lines = self.dedup, []
        if found:
            copied = f" ({found['reused']:,} copied of earlier outputs)" if found.get("reused") else ""
            rest = found["repeated"] - found["distinct"]
            lines.append(
                f"  equal captions: {found['repeated']:,} of {found['captions']:,}; the {found['distinct']:,} distinct "
                f"ones of them were encoded first{copied}, and {rest:,} need no encoder"
            )
        if referring := self.totals.get("shared"):
            size = f", {found['size'] / 1e6:,.1f} MB" if "size" in found else ""
            lines.append(f"  stored once, in {SHARED}/{size}: {referring:,} captions refer to it")
        return lines

    def _tell_reuse(self) -> list[str]:
        """What this run copied from which outputs, and what that saved."""
        findings = self.details.findings
        lines = [f"    from {show_invisible(name)}: {count:,}" for name, count in findings.reused.items()]
        if findings.reused:
            saved = f", about {show_seconds(self.seconds_saved)} of one model's work" if self.seconds_saved else ""
            copied = f"{self.captions_reused:,} captions, {findings.reused_tokens:,} tokens"
            lines.insert(0, f"  copied, not computed: {copied}{saved}")
        return lines + [f"  not reused: {show_invisible(f'{name}: {why}')}" for name, why in self.not_reused.items()]

    def _tell_reasons(self) -> list[str]:
        """Why captions of this run have no embedding, and files of which none has one."""
        reasons = self.details.findings.reasons.items()
        lines = [f"    {reason}: {found.count:,}{_first_place(found)}" for reason, found in reasons]
        if self.bare:
            more = f" and {len(self.bare) - MOST_BARE:,} more" if len(self.bare) > MOST_BARE else ""
            named = show_invisible(", ".join(self.bare[:MOST_BARE]))
            lines.append(f"  no caption has an embedding of {len(self.bare):,} input file(s): {named}{more}")
        return lines


def _first_place(reason: Reason) -> str:
    return "".join(f", the first in {show_invisible(source)}, row {row:,}" for source, row, _ in reason.rows[:1])


def _flatten(sums: dict[str, Any]) -> dict[str, Any]:
    """What is counted, beside the other keys."""
    rest = {name: value for name, value in sums.items() if name not in ("counts", "cost")}
    return {**sums["counts"], **sums["cost"], **rest}


def write_report(store: Store, report: EncodeReport) -> None:
    """Put the report into the output, for machines and for people."""
    from pipelines.progress.page import render_page

    text = report.to_json()
    store.replace(REPORT, text.encode())
    store.replace(PAGE, render_page(json.loads(text)).encode())


def read_report(store: Store, fingerprint: str) -> Any:
    """What the last run of this job reported, as JSON; None where that is not there, damaged, or of another job."""
    try:
        last = json.loads(store.read(REPORT))
        return last if last["job"]["fingerprint"] == fingerprint else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def read_runs(last: Any) -> list[dict[str, Any]]:
    """What earlier runs did, in order, as far as the last one's report tells; a damaged one tells nothing."""
    try:
        names = ("began", "state", "wall_seconds", "tokens_per_second")
        counts = {name: last["progress"][name] for name in ("captions", "units")}
        return [*last["earlier_runs"], {name: last[name] for name in names} | counts][-MOST_RUNS:]
    except (KeyError, TypeError):
        return []


def read_storage_error(last: Any) -> StorageError:
    """What earlier runs have sampled; nothing where the last one's report does not tell it."""
    try:
        return StorageError.from_json(last["storage_error"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return StorageError()


def describe_job(frozen: FrozenJob) -> dict[str, Any]:
    """What was asked for, as far as it is frozen."""
    names = ("text_column", "caption_choice", "dtype", "storage_dtype", "deterministic")
    inputs = frozen.record.get("inputs", [])
    return {
        "model": frozen.record.get("model"),
        "inputs": inputs[:MOST_INPUTS],
        "more_inputs": max(0, len(inputs) - MOST_INPUTS),
        "rows_per_shard": frozen.rows_per_shard,
        "captions_per_shard": frozen.captions_per_shard,
        "bytes_per_shard": frozen.bytes_per_shard,
        "generation": frozen.generation,
        "fingerprint": frozen.fingerprint,
    } | {name: frozen.identity.get(name) for name in names}


def describe_cuts(truncated: int, captions: int, longest: int, max_length: int) -> str:
    """How many captions were cut where, and how long the longest was before."""
    share = f" ({truncated / captions:.2%})" if truncated else ""
    return f"truncated at {max_length:,} tokens: {truncated:,}{share}; longest caption {longest:,} tokens, uncut"


def read_versions() -> dict[str, Any]:
    """Versions of what computed the output."""
    names = ("t5enc", "torch", "transformers", "ray", "pyarrow")
    return {"python": platform.python_version()} | {name: version(name) for name in names}
