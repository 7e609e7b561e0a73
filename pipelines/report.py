"""What a run did, as numbers, as JSON and as text."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from pipelines.ledger import Progress

REPORT = "report.json"
# Exit codes of `t5enc encode` beyond the errors' own: everything encoded but captions that kill the encoder, and
# inputs that could not be read.
CAPTIONS_DIED = 3
INPUTS_UNREADABLE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeReport:
    """Totals of the output, and what this run contributed.

    `recipe` says which one embeddings are made by and how it was chosen, `max_length` where captions are cut.
    """

    output: str
    totals: dict[str, int]
    max_length: int = 0
    recipe: str | None = None
    unreadable: dict[str, str] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    wall_seconds: float = 0.0
    driver_cpu_seconds: float = 0.0
    spans: int = 0
    is_finished: bool = False

    @property
    def exit_code(self) -> int:
        """What the command line ends with."""
        if self.unreadable:
            return INPUTS_UNREADABLE
        return CAPTIONS_DIED if self.totals["died"] else 0

    @property
    def tokens_per_second(self) -> float:
        """Useful tokens a second of this run, from the moment its actors were ready."""
        return self.progress.tokens / self.run_seconds if self.run_seconds else 0.0

    @property
    def run_seconds(self) -> float:
        """Seconds of the running phase: from the first actor that was ready to the last commit."""
        return self.progress.seconds

    def to_json(self) -> str:
        """The report as it is written into the output."""
        content = asdict(self) | {
            "run_seconds": round(self.run_seconds, 3),
            "tokens_per_second": round(self.tokens_per_second, 1),
            "fill": round(self.progress.fill, 4),
            "cores_used_while_encoding": round(self.cores_used, 2),
            "versions": read_versions(),
        }
        return json.dumps(content, indent=2)

    @property
    def cores_used(self) -> float:
        """CPU seconds of the actors' processes for each second their models worked."""
        busy = self.progress.busy_seconds
        return self.progress.busy_cpu_seconds / busy if busy else 0.0

    def __str__(self) -> str:
        totals = self.totals
        lines = [
            f"{self.output}: {totals['captions']:,} captions in {totals['shards']:,} shards, "
            f"{totals['tokens']:,} {'tokens' if self.recipe is None else 'rows'}, {totals['size'] / 1e6:,.1f} MB",
            f"  encoded {totals['encoded']:,}, without embedding {totals['errors']:,} "
            f"(of those {totals['died']:,} killed the encoder)",
            f"  {describe_cuts(totals['truncated'], totals['captions'], totals['longest'], self.max_length)}",
        ]
        if self.recipe is not None:
            lines.append(f"  recipe {self.recipe}")
        if self.progress.units:
            lines.append(
                f"  this run: {self.progress.captions:,} captions in {self.run_seconds:.1f} s of "
                f"{self.wall_seconds:.1f} s in all, {self.tokens_per_second:,.0f} useful tokens/s, "
                f"streams {self.progress.fill:.1%} full, {self.cores_used:.1f} cores at work"
            )
        lines += [f"  not read: {reason}" for reason in self.unreadable.values()]
        if not self.is_finished:
            lines.append("  unfinished: mend or remove the inputs named above and run the same command again")
        return "\n".join(lines)


def describe_cuts(truncated: int, captions: int, longest: int, max_length: int) -> str:
    """How many captions were cut where, and how long the longest was before."""
    share = f" ({truncated / captions:.2%})" if truncated else ""
    return f"truncated at {max_length:,} tokens: {truncated:,}{share}; longest caption {longest:,} tokens, uncut"


def read_versions() -> dict[str, Any]:
    """Versions of what computed the output."""
    names = ("t5enc", "torch", "transformers", "ray", "pyarrow")
    return {"python": platform.python_version()} | {name: version(name) for name in names}
