"""What is checked of an output, how often, how often it did not hold, and where first."""

from __future__ import annotations

from dataclasses import dataclass, field

# In the order in which they are shown.
CHECKS = {
    "model": "the weights are those that the job names",
    "tokenizer": "the tokenizer is the one that the job names",
    "shards": "each shard of the manifest is there",
    "readable": "shards and rows can be read",
    "manifest": "shards and rows are those that the manifest names",
    "row count": "shards have as many rows as the manifest says",
    "labels": "dtype, shape and width are what the job says",
    "captions": "each row's caption is known",
    "no embedding": "rows without an embedding have a reason and nothing else",
    "num_tokens": "as many tokens as the caption has under the recipe",
    "truncated": "captions are said to be cut where they are",
    "key": "the content key is that of the caption",
    "finite": "no NaN, no infinity",
    "zeros": "no token of zeros alone",
    "numbers": "embeddings are those of their captions",
    "null prompt": "the recipe's null prompt is stored as it is encoded",
}


@dataclass(slots=True)
class Check:
    """One kind of check; `first` says where it did not hold first, and how."""

    name: str
    checked: int = 0
    wrong: int = 0
    first: str = ""

    @property
    def meaning(self) -> str:
        """What holds where nothing is wrong."""
        return CHECKS[self.name]


@dataclass(slots=True)
class Findings:
    """All checks by name."""

    checks: dict[str, Check] = field(default_factory=lambda: {name: Check(name) for name in CHECKS})

    def add(self, name: str, holds: bool, what: str) -> bool:
        """Count one; `what` says where it is and what is wrong with it if it does not hold."""
        check = self.checks[name]
        check.checked += 1
        if not holds:
            check.wrong += 1
            check.first = check.first or what
        return holds

    def compare(self, name: str, where: str, *, expected: object, got: object) -> bool:
        """Count one of two values that must be equal."""
        return self.add(name, expected == got, f"{where}: expected {_show(expected)}, got {_show(got)}")

    @property
    def made(self) -> list[Check]:
        """Those that were made at least once."""
        return [check for check in self.checks.values() if check.checked]


def _show(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
