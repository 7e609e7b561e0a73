"""`README.md`, the output's dataset card: `load_dataset` on the output's folder goes by it, and people read it.

It ends with a hash of itself. What lacks that, or was changed since, is somebody's own and never replaced.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import PurePath

from pipelines.job import FrozenJob
from pipelines.stores.store import Store
from t5enc.storage import PREFIX
from t5enc.storage.filesystems import hide_credentials
from t5enc.storage.layout import CARD, DATA, PARQUET, SHARED

# `name` or `owner/name`; anything else is a path.
HUB_ID = re.compile(r"[\w-][\w.-]*([/:][\w-][\w.-]*)?")
MARK = re.compile(rb"\n<!-- t5enc ([0-9a-f]{64}) -->\n\Z")
# How one caption's bytes become an array, by what they are stored as.
PLANES = "read_planes(data, shape[0] * shape[1])"
DECODERS = {
    "float16": "np.frombuffer(data, np.float16).reshape(shape)",
    "float32": "np.frombuffer(data, np.float32).reshape(shape)",
    "bfloat16": "(np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)",
    "int8": "scale_int8(np.frombuffer(data, np.uint8).reshape(shape[0], 4 + shape[1]))",
    "int8g32": "scale_groups(np.frombuffer(data, np.uint8).reshape(shape[0], -1), shape[1])",
    "fp8": "read_fp8(np.frombuffer(data, np.uint8)).reshape(shape)",
    "bf16z": f"({PLANES}.astype(np.uint32) << 16).view(np.float32).reshape(shape)",
    "fp16z": f"{PLANES}.view(np.float16).reshape(shape)",
}
READ_PLANES = """import pyarrow as pa


def read_planes(data, count):  # high bytes, then low ones, of numbers turned left by a bit
    end = 8 + int.from_bytes(data[4:8], "little")
    high, low = (
        np.frombuffer(plane if len(plane) == count else pa.decompress(plane, count, "zstd"), np.uint8).astype(np.uint16)
        for plane in (data[8:end], data[end:])
    )
    turned = high << 8 | low
    return turned >> 1 | turned << 15

"""
# What a decoder calls.
FUNCTIONS = {
    "int8": """
def scale_int8(tokens):  # of each token a float32 scale, and then its integers
    return tokens[:, 4:].view(np.int8) * tokens[:, :4].copy().view(np.float32)

""",
    "int8g32": """
def scale_groups(tokens, dim):  # of each token a float16 scale for every 32 numbers, and then its integers
    scales = tokens[:, :-dim].copy().view(np.float16).astype(np.float32)
    return tokens[:, -dim:].view(np.int8) * scales.repeat(32, axis=1)[:, :dim]

""",
    "fp8": """
def read_fp8(codes):  # float8 e4m3: a sign, four bits of exponent, three of mantissa
    sign, exponent, mantissa = 1.0 - 2 * (codes >> 7), (codes >> 3 & 15).astype(int), codes & 7
    return sign * np.ldexp(np.where(exponent, 8.0, 0.0) + mantissa, np.maximum(exponent, 1) - 10)

""",
    "bf16z": READ_PLANES,
    "fp16z": READ_PLANES,
}
TEXT = """---
pretty_name: Text embeddings
tags:
- t5enc
configs:
- config_name: default
  data_files:
  - split: train
    path: {data}/**/*{parquet}
---

# Embeddings of {captions:,} captions

| | |
|---|---|
| model | `{model}` |
| recipe | {recipe} |
| longest | {max_length:,} tokens; {truncated:,} captions were cut |
| computed in, stored as | {dtype}, {storage_dtype} |
| width | {dim:,} |
| rows | {captions:,}, of which {errors:,} have no embedding |
| kept columns | {kept} |

`{data}/` holds the rows in the order of the input, one a caption, in Parquet files of one schema, and nothing else.
The array of a caption is `{prefix}bytes`, a token after the other, and its form
`{prefix}shape` (tokens, width). Both are null where there is no embedding, and
`{prefix}error` says why. `{prefix}source`, `_row` and `_caption_index` say which
file, row and caption of the input it is.
{about}
## Read it

In any reader of Parquet:

```python
import numpy as np

{functions}
def decode(row):
    data, shape = row["{prefix}bytes"], row["{prefix}shape"]
{resolve}    return None if data is None else {decode}
```

```python
import pandas as pd

{pandas}rows = pd.read_parquet("{data}").to_dict("records")
embeddings = [decode(row) for row in rows]
```

```python
import polars as pl

{polars}rows = pl.read_parquet("{data}").iter_rows(named=True)
embeddings = [decode(row) for row in rows]
```

```python
import duckdb

{duckdb}rows = duckdb.sql("select * from '{data}/**/*{parquet}'").to_arrow_table().to_pylist()
embeddings = [decode(row) for row in rows]
```

```python
import os
from datasets import load_dataset

{datasets}rows = load_dataset(os.getcwd(), split="train", streaming=True)  # or its name on the hub
embeddings = [decode(row) for row in rows]
```

With t5enc, which also gives batches and the tensors of pipelines:

```python
from t5enc import load_embeddings

table, embeddings = load_embeddings(".")
```
"""
# What a card says beside that where equal embeddings are stored once.
REFERENCES = {
    "about": f"""
Equal embeddings are stored once. A row without bytes that has a shape refers to one of `{SHARED}/`, an output
of the same form: `{PREFIX}shared_row` is the number of the row there, counted from 0 in the order of its
files, whose `{PREFIX}bytes` are its own.
""",
    "resolve": f"""    if data is None and shape is not None:
        data = shared[int(row["{PREFIX}shared_row"])]
""",
    "pandas": f"""shared = pd.read_parquet("{SHARED}/{DATA}")["{PREFIX}bytes"]
""",
    "polars": f"""shared = pl.read_parquet("{SHARED}/{DATA}")["{PREFIX}bytes"]
""",
    "duckdb": f"""there = duckdb.sql("select {PREFIX}bytes from '{SHARED}/{DATA}/**/*{PARQUET}'")
shared = [data for (data,) in there.fetchall()]
""",
    "datasets": f"""there = load_dataset(os.getcwd(), data_files="{SHARED}/{DATA}/**/*{PARQUET}", split="train")
shared = there["{PREFIX}bytes"]
""",
}
NO_REFERENCES = dict.fromkeys(REFERENCES, "")


def make_card(job: FrozenJob, totals: Mapping[str, int]) -> bytes:
    """The card of a job whose shards hold so much."""
    names = [f"`{name}`" for name in job.kept_schema.names]
    text = TEXT.format(
        data=DATA,
        parquet=PARQUET,
        prefix=PREFIX,
        model=_name_model(str(job.record.get("model"))),
        recipe=job.describe_recipe() or "none",
        kept=", ".join(names).replace("|", "\\|") or "none",
        decode=DECODERS[job.storage_dtype],
        functions=FUNCTIONS.get(job.storage_dtype, ""),
        storage_dtype=job.storage_dtype,
        dim=job.dim,
        **(REFERENCES if job.has_references and totals["shared"] else NO_REFERENCES),
        **{name: job.identity[name] for name in ("max_length", "dtype")},
        **{name: totals[name] for name in ("captions", "truncated", "errors")},
    ).encode()
    return text + f"\n<!-- t5enc {_hash(text)} -->\n".encode()


def _name_model(model: str) -> str:
    """A hub's or a built-in name as it is; of a path, which tells where its owner works, the last part."""
    return model if HUB_ID.fullmatch(model) else PurePath(hide_credentials(model)).name


def write_card(store: Store, job: FrozenJob, totals: Mapping[str, int]) -> None:
    """Put the card of a job into its output, unless somebody's own is there."""
    try:
        there = store.read(CARD)
    except FileNotFoundError:
        there = None
    card = make_card(job, totals)
    if there is None or (is_ours(there) and there != card):
        store.replace(CARD, card)


def is_ours(card: bytes) -> bool:
    """Whether a card is one of a job's, as it was written."""
    mark = MARK.search(card)
    return mark is not None and mark[1].decode() == _hash(card[: mark.start()])


def _hash(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
