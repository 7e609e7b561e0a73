"""Outputs of jobs under a recipe, written by hand, and captions and paths that are hard on exporters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from t5enc.embeddings import Embeddings
from t5enc.recipes.conditioning import Conditioning
from t5enc.recipes.families import RECIPES
from t5enc.storage import METADATA_KEY, CaptionKeys, build_table, working_dtype
from t5enc.storage.layout import FORMAT_VERSION, JOB, NULL
from t5enc.storage.null_prompt import serialize_null
from tests.t5enc.written import finish

DIM, FINGERPRINT, FAILED = 8, "f" * 64, "it failed"
# As `t5enc encode` writes them: a row group of embeddings is one plain page.
OPTIONS: dict[str, Any] = {"compression": "none", "use_dictionary": False}


@dataclass(frozen=True, slots=True)
class Written:
    """An output, and what is in it: captions, paths and the rows of each caption."""

    folder: Path
    captions: list[str]
    paths: list[str]
    embeddings: Embeddings
    null: torch.Tensor


def write_output(
    folder: Path,
    captions: Sequence[str],
    paths: Sequence[str] | None = None,
    *,
    recipe: str = "wan",
    storage: str = "bfloat16",
    compute: str = "bfloat16",
    max_length: int | None = None,
    lengths: Sequence[int] | None = None,
    failed: Sequence[int] = (),
    fields: dict[str, Any] | None = None,
    rows_per_shard: int = 7,
    more: dict[str, Sequence[str]] | None = None,
    identity: dict[str, Any] | None = None,
    captions_per_row: int = 1,
) -> Written:
    """A finished output in which a caption of n characters has 1 + n % 5 rows, if `lengths` does not say otherwise."""
    paths = [f"images/{index}.jpg" for index in range(len(captions))] if paths is None else paths
    made = replace(RECIPES[recipe], **fields or {})
    length = made.max_length if max_length is None else max_length
    lengths = [1 + len(caption) % 5 for caption in captions] if lengths is None else lengths
    counts = [0 if index in failed else count for index, count in enumerate(lengths)]
    embeddings = Embeddings.from_lengths(_draw(sum(counts), 0).to(working_dtype(storage)), counts)
    null = _draw(2, 1).to(working_dtype(storage))
    names = []
    for index, start in enumerate(range(0, len(captions), rows_per_shard)):
        rows = slice(start, min(start + rows_per_shard, len(captions)))
        names.append(f"data/a_/{index:012d}-{index:016x}.parquet")
        kept = {"caption": captions, "image_path": paths, **(more or {})}
        kept = pa.table({name: pa.array(values[rows], pa.string()) for name, values in kept.items()})
        table = _make_table(kept, embeddings[rows], start, storage, failed, captions_per_row)
        (folder / names[-1]).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / names[-1], row_group_size=3, **OPTIONS)
    _write_job(folder, made.to_identity() | {"max_length": length}, storage, compute, identity or {})
    conditioning = Conditioning(made, null if made.null == "text" else None)
    (folder / NULL).write_bytes(
        serialize_null(conditioning, dim=DIM, dtype=working_dtype(storage), fingerprint=FINGERPRINT)
    )
    finish(folder, names)
    return Written(folder, list(captions), list(paths), embeddings, null)


def _draw(tokens: int, seed: int) -> torch.Tensor:
    return torch.randn(tokens, DIM, generator=torch.Generator().manual_seed(seed))


def _make_table(
    kept: pa.Table, embeddings: Embeddings, first: int, storage: str, failed: Sequence[int], captions_per_row: int
) -> pa.Table:
    count = len(kept)
    rows, indices = np.divmod(np.arange(first, first + count), captions_per_row)
    table = build_table(
        kept,
        CaptionKeys(source="a.parquet", rows=rows, caption_indices=indices.astype(np.int32)),
        embeddings,
        storage=storage,
        truncated=np.zeros(count, dtype=bool),
        errors=[FAILED if first + index in failed else None for index in range(count)],
    )
    return table.replace_schema_metadata({METADATA_KEY: json.dumps({"storage_dtype": storage, "dim": DIM})})


def _write_job(folder: Path, recipe: dict[str, Any], storage: str, compute: str, more: dict[str, Any]) -> None:
    identity = {
        "recipe": recipe,
        "max_length": recipe["max_length"],
        "text_column": "caption",
        "storage_dtype": storage,
        "dtype": compute,
        **more,
    }
    job = {
        "format": FORMAT_VERSION,
        "identity": identity,
        "record": {"device": "cpu", "model": "builtin:tiny"},
        "dim": DIM,
        "fingerprint": FINGERPRINT,
        "rows_per_shard": 7,
    }
    (folder / JOB).parent.mkdir(parents=True, exist_ok=True)
    (folder / JOB).write_text(json.dumps(job))
