"""What `t5enc verify OUTPUT` found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from t5enc.checks.json_report import read_versions
from t5enc.checks.output.distances import Distance
from t5enc.checks.output.findings import Check


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputReport:
    """All checks, how far numbers are off, and in `causes` why, where they are off too far.

    `farthest` is the largest distance of embeddings that are compared, `nearest_limit` the smallest that was allowed.
    """

    output: str
    is_finished: bool
    model: str
    recipe: str
    max_length: int
    dtype: str
    storage: str
    against: str
    device: str
    seed: int
    rows: int
    drawn: int
    shards: int
    compared: int
    missing: int
    captions: str
    bound: str
    farthest: Distance
    nearest_limit: Distance
    checks: tuple[Check, ...]
    causes: tuple[str, ...]

    @property
    def failures(self) -> list[Check]:
        """The checks that do not hold."""
        return [check for check in self.checks if check.wrong]

    @property
    def is_sound(self) -> bool:
        """Whether all checks hold, and at least one embedding was compared: without that nothing is shown."""
        return not self.failures and self.compared > 0

    def describe(self) -> dict[str, Any]:
        """All of it for JSON."""
        content = asdict(self) | {"is_sound": self.is_sound, "versions": read_versions()}
        content["checks"] = [asdict(check) | {"meaning": check.meaning} for check in self.checks]
        return content
