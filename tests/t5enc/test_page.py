"""The examples of nai-t5-wrapper's page run as they stand, but for the import."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from t5enc.checkpoint.builtin import write_builtin

OLD = "from nai_t5_wrapper import NAIT5EncoderModel"
NEW = "from t5enc.hf import AutoT5EncoderModel as NAIT5EncoderModel"


@pytest.fixture
def examples(shared: Path, tmp_path: Path) -> list[str]:
    """Python blocks of the page; its models are local ones, and without a card nothing moves to one."""
    page = shared / "reference" / "seed_nai_t5_wrapper_readme.md"
    if not page.is_file():
        pytest.skip("needs the predecessor's page")
    for name in ("tiny", "tiny-mt5", "tiny-umt5"):
        write_builtin(name, tmp_path / name)
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    found = [block for block in blocks if "NAIT5EncoderModel" in block]
    assert len(found) == 2
    for family, name in (("umt5", "tiny-umt5"), ("mt5", "tiny-mt5"), ("t5", "tiny")):
        found = [re.sub(rf"'google/{family}-[\w-]+'", repr(str(tmp_path / name)), block) for block in found]
    if not torch.cuda.is_available():
        found = [block.replace(".cuda()", "") for block in found]
    return [block.replace(OLD, NEW) for block in found]


def run(block: str) -> dict[str, Any]:
    names: dict[str, Any] = {"torch": torch}
    exec(block, names)
    return names


def test_the_quick_start_runs(examples: list[str]) -> None:
    names = run(examples[0])
    assert names["embeddings"].shape[::2] == (1, 64)
    assert names["embeddings"].isfinite().all()
    # the two other families, which the page has in comments
    for line in re.findall(r"^# (model = .*)$", examples[0], flags=re.MULTILINE):
        other = run(examples[0].replace("tokenizer =", f"{line}\ntokenizer =", 1))
        assert type(other["model"]) is not type(names["model"])
        assert other["embeddings"].shape == names["embeddings"].shape


def test_the_additional_options_run(examples: list[str], compiler: None) -> None:
    names = run(NEW + "\n" + examples[1])
    assert names["model"].compiled_graphs == 0  # compiled when it first runs
    for line in re.findall(r"^model = .*$", examples[1], flags=re.MULTILINE):
        model = run(f"{NEW}\n{line}")["model"]
        hidden = model(torch.tensor([[5, 6, 1]], device=model.device)).last_hidden_state
        assert hidden.shape == (1, 3, 64)
        assert hidden.dtype == (torch.float16 if "float16" in line else model.dtype)
        assert "max_seq_len" not in line or model.encoder.max_seq_len == 256
