"""The main job on a built-in default: sample captions, a tiny model, the real pipeline."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from pipelines.commands.supervise import supervise
from pipelines.job import EncodeJob
from t5enc.checkpoint.builtin import sample_captions
from t5enc.checks.inspect import print_output
from t5enc.storage.layout import DATA, PARQUET

FILES = 3


def run_demo(folder: str) -> int:
    """Write captions, encode them, show what came out; the exit code of the job."""
    console = Console(soft_wrap=True, highlight=False)
    captions, output = Path(folder, "captions"), Path(folder, "embeddings")
    shutil.rmtree(output, ignore_errors=True)
    write_captions(captions)
    console.print(f"captions: {captions} ({FILES} Parquet files)")
    if not shutil.which("c++") and not shutil.which("g++") and not shutil.which("clang++"):
        console.print("no C++ compiler: Flex attention on the CPU is off; SDPA, the default there, needs none")
    console.print(f"$ t5enc encode {captions} --output {output} --model builtin:tiny")
    command = ["t5enc", "encode", str(captions), "--output", str(output), "--model", "builtin:tiny"]
    code = supervise(EncodeJob(inputs=[str(captions)], output=str(output), model="builtin:tiny"), command)
    if code == 0:
        console.print(f"$ t5enc inspect {output}")
        print_output(str(output), rows=5, partial=False)
        console.print("builtin:tiny has random weights: its embeddings are real in shape, not in meaning.")
        console.print("Whatever reads Parquet opens them, as far as it is installed:")
        for opener in list_openers(output):
            console.print(f"$ {opener}", markup=False)
    return code


def list_openers(output: Path) -> list[str]:
    """Commands of a shell that open an output, each with another tool."""
    root, folder, shards = (json.dumps(f"{output}{end}") for end in ("", f"/{DATA}", f"/{DATA}/**/*{PARQUET}"))
    lines = [
        f"from t5enc import load_embeddings; print(load_embeddings({root})[0])",
        f"import pandas; print(pandas.read_parquet({folder}))",
        f"import duckdb; print(duckdb.read_parquet({shards}).limit(3))",
        f"from datasets import load_dataset; print(load_dataset({root}))",
    ]
    return [f"python -c {shlex.quote(line)}" for line in lines]


def write_captions(folder: Path) -> None:
    """The sample captions as a few Parquet files with an id and a caption column."""
    folder.mkdir(parents=True, exist_ok=True)
    captions = sample_captions()
    for part in range(FILES):
        ids = range(part, len(captions), FILES)
        table = pa.table({"id": list(ids), "caption": [captions[i] for i in ids]})
        pq.write_table(table, folder / f"part-{part}.parquet")
