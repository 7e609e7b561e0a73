"""What mypy says of callers' code, as it reads this package with the others: an ignored error that is none is one."""

from __future__ import annotations

from pathlib import Path

import torch

from pipelines import EncodeJob
from serve_app.config import ServeConfig
from t5enc import EmbeddingDataset, EncoderOptions, TextEncoder

EncoderOptions(model=Path("m"), dtype=torch.bfloat16, device=torch.device("cpu"), token=True, local_files_only=None)
EncoderOptions(model="m", lenght=8)  # type: ignore[call-arg]
EncoderOptions(model="m", max_length="8")  # type: ignore[arg-type]

EncodeJob(inputs=["a", Path("b")], output="out", model="m", tokenizer=b"", actors="1:2")
EncodeJob(inputs=["a"], model="m")  # type: ignore[call-arg]
EncodeJob(inputs=["a"], output="out", model="m", num_threads=1)  # type: ignore[call-arg]
EncodeJob(inputs=["a"], output="out", encoder="m")  # type: ignore[arg-type]

ServeConfig(model="m", port=80, models={"other": {"model": "m"}})
ServeConfig(model="m", device_share=0.5)  # type: ignore[call-arg]
ServeConfig(model="m", port="80")  # type: ignore[arg-type]

TextEncoder.from_pretrained("m", recipe="flux", num_threads=2)
TextEncoder.from_pretrained("m", flash=True)  # type: ignore[call-arg]
TextEncoder.from_pretrained("m", attention="flash")  # type: ignore[arg-type]

EmbeddingDataset(["a", Path("b")], columns=["id"], missing="zeros", null="zeros").__getitems__([1])
EmbeddingDataset("a", missing="none")  # type: ignore[arg-type]
EmbeddingDataset("a", null=0.0)  # type: ignore[arg-type]
