"""What the benchmarks measure with: real prompts, a tokenizer, and checkpoints of known shapes with random weights."""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from t5enc.checkpoint.builtin import ASSETS, sample_captions, write_tokenizer
from t5enc.checks.bench import read_lines

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
PROMPT_FILES = tuple(DATA / "prompts" / f"{name}.txt" for name in ("parti_prompts", "dpg_bench", "vbench_long_wan_en"))
TOKENIZER = DATA / "tokenizers" / "t5"
WORKPLACE = Path(tempfile.gettempdir()) / "t5enc-benchmarks"

# Shapes as transformers' T5Config names them: t5-v1_1-base, 1.16 GB in float32, and one for smoke runs.
COMMON: dict[str, Any] = {
    "vocab_size": 32128,
    "d_kv": 64,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
SHAPES: dict[str, dict[str, Any]] = {
    "base": COMMON | {"d_model": 768, "num_layers": 12, "num_heads": 12, "d_ff": 2048},
    "gigabyte": COMMON | {"d_model": 1024, "num_layers": 20, "num_heads": 16, "d_ff": 2816},
    "smoke": COMMON | {"d_model": 64, "num_layers": 2, "num_heads": 4, "d_kv": 16, "d_ff": 128},
}
# Layers of t5-v1_1-xl: 1.0 GB in bfloat16.
BFLOAT16_SHAPES: dict[str, dict[str, Any]] = {
    "gigabyte-bf16": COMMON | {"d_model": 2048, "num_layers": 9, "num_heads": 32, "d_ff": 5120},
    "smoke-bf16": SHAPES["smoke"],
}


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--quick", action="store_true", help="a smoke run on a tiny shape: seconds, and no figures")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="CPU threads (default 2)")
    return parser


def add_prompts(parser: argparse.ArgumentParser) -> None:
    """Where texts come from."""
    parser.add_argument("--prompts", type=Path, nargs="+", metavar="FILE", help="a prompt a line; equally many of each")


def add_tokenizer(parser: argparse.ArgumentParser) -> None:
    """Where token ids come from."""
    parser.add_argument("--tokenizer", type=Path, metavar="FOLDER", help="a T5 tokenizer, or a sentencepiece .model")


def draw_prompts(files: Sequence[Path] | None, count: int, seed: int = 0) -> list[str]:
    """Distinct prompts, equally many of each file, shuffled; of the built-in captions where there is no file."""
    found = files or (PROMPT_FILES if all(path.is_file() for path in PROMPT_FILES) else ())
    sources = [read_lines(str(path)) for path in found] or [sample_captions()]
    draw = random.Random(seed)
    prompts: list[str] = []
    for index, source in enumerate(sources):
        part = count * (index + 1) // len(sources) - count * index // len(sources)
        prompts += _draw_distinct(draw, source, part)
    draw.shuffle(prompts)
    return prompts


def _draw_distinct(draw: random.Random, source: Sequence[str], count: int) -> list[str]:
    """Where a file has too few lines they are numbered and used again."""
    lines = list(dict.fromkeys(source))
    again = [f"{line} ({copy})" for copy in range(2, 2 + count // len(lines)) for line in lines]
    return draw.sample(lines, min(count, len(lines))) + again[: max(0, count - len(lines))]


def make_short_texts(files: Sequence[Path] | None, count: int) -> list[str]:
    """Distinct texts of one to eight words and a number."""
    prompts, draw = draw_prompts(files, 300), random.Random(0)
    return [f"{' '.join(draw.choice(prompts).split()[: draw.randint(1, 8)])} {index}" for index in range(count)]


def quieten() -> None:
    """No progress bars of transformers among the figures."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def find_tokenizer(given: Path | None) -> str:
    """The tokenizer asked for, the real one of T5 where it lies beside the checkout, or the built-in one."""
    if given is not None:
        return str(given)
    return str(TOKENIZER if TOKENIZER.is_dir() else ASSETS / "tiny.model")


def find_tokenizer_folder(given: Path | None) -> str:
    """The same as transformers reads it: a folder, made in the temporary one where there is but a .model."""
    found = Path(find_tokenizer(given))
    if found.is_dir():
        return str(found)
    model = found.read_bytes()
    folder = WORKPLACE / f"tokenizer-{hashlib.sha256(model).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, model)
    return str(folder)


def make_checkpoint(shape: str) -> Path:
    """A checkpoint of this shape as transformers saves it, made once and kept in the temporary folder."""
    folder = WORKPLACE / shape
    if not (folder / "config.json").is_file():
        is_narrow = shape in BFLOAT16_SHAPES
        _save_checkpoint((BFLOAT16_SHAPES | SHAPES)[shape], folder, torch.bfloat16 if is_narrow else torch.float32)
    return folder


def _save_checkpoint(shape: dict[str, Any], folder: Path, dtype: torch.dtype) -> None:
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    model = T5EncoderModel(T5Config(**shape))
    with torch.no_grad():
        _redraw(model)
    aside = folder.with_name(f"{folder.name}.{os.getpid()}")
    model.to(dtype).save_pretrained(aside)
    aside.rename(folder)


def _redraw(model: nn.Module) -> None:
    """Norm scales of one and biases near zero, as T5 starts with, would hide mistakes in both."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.uniform_(0.5, 1.5)
        elif "relative_attention_bias" in name:
            parameter.normal_()


def relative_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The worst text's: |found - expected| / |expected|, over all numbers of the text."""
    pairs = zip(found, expected, strict=True)
    return max(float((ours.float() - theirs).norm() / theirs.norm()) for ours, theirs in pairs)
