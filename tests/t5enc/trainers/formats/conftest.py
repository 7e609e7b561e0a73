"""A tokenizer that formats may ask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from t5enc.checkpoint.builtin import write_tokenizer
from t5enc.text.tokenizer import load_tokenizer


@dataclass(frozen=True, slots=True)
class Told:
    """Where a tokenizer lies, and what it says of captions."""

    folder: Path
    fingerprint: str

    def count(self, caption: str) -> int:
        return len(load_tokenizer(str(self.folder), max_length=512).encode([caption]).ids[0])


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, None)
    return Told(folder, load_tokenizer(str(folder), max_length=512).fingerprint)
