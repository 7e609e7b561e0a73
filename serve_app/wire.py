"""Token embeddings as bytes: safetensors, an Arrow stream, NumPy's files, JSON, and bare numbers.

N texts, T tokens of all of them, M model dim.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic_core import to_json
from torch import Tensor

from serve_app.refused import RefusedError, refuse_value
from t5enc.embeddings import Embeddings
from t5enc.errors import PrecisionError
from t5enc.storage import METADATA_KEY, PREFIX, CaptionKeys, build_table

SAFETENSORS = "application/vnd.safetensors"
ARROW = "application/vnd.apache.arrow.stream"
NPY = "application/x-npy"
NPZ = "application/x-npz"
JSON = "application/json"
COLUMNS = [f"{PREFIX}{name}" for name in ("bytes", "shape", "dtype", "num_tokens", "truncated")]


@dataclass(frozen=True, slots=True)
class TokenEmbeddings:
    """Embeddings of N texts on the CPU, which of them were cut, and the model that they are of."""

    embeddings: Embeddings
    truncated: Sequence[bool]
    model: str
    fingerprint: str

    @property
    def dtype(self) -> str:
        """Its name, as PyTorch has it."""
        return str(self.embeddings.values.dtype).removeprefix("torch.")

    @property
    def metadata(self) -> dict[str, str]:
        """What every format says of where the numbers come from."""
        return {"model": self.model, "fingerprint": self.fingerprint, "dtype": self.dtype}

    @property
    def arrays(self) -> dict[str, Tensor]:
        """values (T, M), offsets (N + 1,), lengths (N,), truncated (N,)."""
        return {
            "values": self.embeddings.values,
            "offsets": self.embeddings.offsets,
            "lengths": self.embeddings.lengths,
            "truncated": torch.tensor(self.truncated, dtype=torch.bool),
        }


def join_texts(hidden: Sequence[Tensor], dtype: str) -> Embeddings:
    """One (tokens, M) a text to embeddings in `dtype`; PrecisionError naming the texts that are out of its range."""
    values = torch.cat(list(hidden)).to(getattr(torch, dtype))
    embeddings = Embeddings.from_lengths(values, [len(text) for text in hidden])
    if not torch.isfinite(values).all():
        bad = [index for index, text in enumerate(embeddings) if not torch.isfinite(text).all()]
        raise PrecisionError(dict.fromkeys(bad, f"embedding is out of the range of {dtype}"))
    return embeddings


def choose_dtype(asked: str | None, computed: str, media_type: str) -> str:
    """The dtype of an answer: as asked, or as computed; NumPy knows no bfloat16, and gets it in float32."""
    if media_type not in (NPY, NPZ) or (asked or computed) != "bfloat16":
        return asked or computed
    if asked is None:
        return "float32"
    raise refuse_value("dtype", f"expected float32 or float16 for {media_type}, got bfloat16, which NumPy has not")


def write_safetensors(answer: TokenEmbeddings) -> bytes:
    """The arrays under their names, and the metadata in the header."""
    from safetensors.torch import save

    content: bytes = save(answer.arrays, metadata=answer.metadata)
    return content


def write_arrow(answer: TokenEmbeddings) -> bytes:
    """One row a text, in the columns that `t5enc encode` writes to Parquet."""
    count = len(answer.embeddings)
    table = build_table(
        pa.table({}),
        CaptionKeys(source="", rows=np.arange(count), caption_indices=np.zeros(count, np.int32)),
        answer.embeddings,
        storage=answer.dtype,
        truncated=np.array(answer.truncated, dtype=bool),
        errors=[None] * count,
    ).select(COLUMNS)
    facts = answer.metadata | {"storage_dtype": answer.dtype, "dim": answer.embeddings.dim}
    table = table.replace_schema_metadata({METADATA_KEY: json.dumps(facts)})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def write_npz(answer: TokenEmbeddings) -> bytes:
    """The arrays and the metadata as members of one zip file, for `numpy.load`."""
    arrays = {name: tensor.numpy() for name, tensor in answer.arrays.items()}
    members: dict[str, Any] = arrays | {name: np.array(value) for name, value in answer.metadata.items()}
    sink = io.BytesIO()
    np.savez(sink, **members)
    return sink.getvalue()


def write_npy(answer: TokenEmbeddings) -> bytes:
    """(T, M) of a single text: the format holds one array."""
    if len(answer.embeddings) != 1:
        message = f"Accept: {NPY} holds one text, got {len(answer.embeddings)}; ask for {NPZ}"
        raise RefusedError(406, "Validation", message)
    sink = io.BytesIO()
    np.save(sink, answer.embeddings.values.numpy())
    return sink.getvalue()


def write_json(answer: TokenEmbeddings) -> bytes:
    """Nested lists, for eyes and for tools that read nothing else: ten times the size of the others."""
    content = answer.metadata | {
        "embeddings": [text.tolist() for text in answer.embeddings],
        "lengths": answer.embeddings.lengths.tolist(),
        "truncated": list(answer.truncated),
    }
    return to_json(content)


# The first is what a client gets that accepts anything.
WRITERS: Mapping[str, Callable[[TokenEmbeddings], bytes]] = {
    SAFETENSORS: write_safetensors,
    ARROW: write_arrow,
    NPZ: write_npz,
    NPY: write_npy,
    JSON: write_json,
}


def to_raw(values: Tensor, dtype: str, endianness: str) -> bytes:
    """The numbers one after the other, in `dtype` and byte order (native, little, big)."""
    cast = values.to(getattr(torch, dtype)).contiguous()
    data: NDArray[np.uint8] = cast.flatten().view(torch.uint8).numpy()
    is_native = endianness in ("native", sys.byteorder)
    return data.tobytes() if is_native else data.reshape(-1, cast.itemsize)[:, ::-1].tobytes()
