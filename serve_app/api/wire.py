"""Token embeddings as bytes: safetensors, an Arrow stream, NumPy's files, JSON, and bare numbers.

N texts, T tokens of all of them, M model dim.
"""

from __future__ import annotations

import base64
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

from serve_app.served.refusals import RefusedError, refuse_value
from t5enc.embeddings import Embeddings
from t5enc.errors import PrecisionError
from t5enc.recipes.recipe import Recipe
from t5enc.storage import METADATA_KEY, PREFIX, CaptionKeys, build_table

SAFETENSORS = "application/vnd.safetensors"
ARROW = "application/vnd.apache.arrow.stream"
NPY = "application/x-npy"
NPZ = "application/x-npz"
JSON = "application/json"
# The names of the modules that pool, of a checkpoint that has some.
POOLING_MODULES = "pooling_modules"
# Rows that are written as JSON without a break: a millisecond or so of the widest model.
ROWS_AT_ONCE = 4
COLUMNS = [f"{PREFIX}{name}" for name in ("bytes", "shape", "dtype", "num_tokens", "truncated")]


@dataclass(frozen=True, slots=True)
class TokenEmbeddings:
    """Embeddings of N texts on the CPU, which of them were cut, and the model that they are of.

    `with_null` adds the null prompt's rows, `as_pipeline` has the tensors of the recipe's pipeline in the place of the
    rows; both need embeddings that a recipe made.
    """

    embeddings: Embeddings
    truncated: Sequence[bool]
    model: str
    fingerprint: str
    with_null: bool = False
    as_pipeline: bool = False

    @property
    def dtype(self) -> str:
        """Its name, as PyTorch has it."""
        return str(self.embeddings.values.dtype).removeprefix("torch.")

    @property
    def metadata(self) -> dict[str, str]:
        """What every format says of where the numbers come from."""
        facts = {"model": self.model, "fingerprint": self.fingerprint, "dtype": self.dtype}
        if self.embeddings.pooler is not None:
            facts[POOLING_MODULES] = json.dumps(self.embeddings.pooler.names)
        conditioning = self.embeddings.conditioning
        return facts if conditioning is None else facts | describe_recipe(conditioning.recipe)

    @property
    def null(self) -> Tensor | None:
        """(K, M) rows of the null prompt, none where it is zeros or nothing; None where it was not asked for."""
        conditioning = self.embeddings.conditioning
        if not self.with_null or conditioning is None:
            return None
        return self.embeddings.values[:0] if conditioning.null is None else conditioning.null

    @property
    def arrays(self) -> dict[str, Tensor]:
        """values (T, M), offsets (N + 1,), lengths (N,), truncated (N,); and null (K, M).

        For a pipeline, its tensors stand in the place of values and offsets.
        """
        facts = {"lengths": self.embeddings.lengths, "truncated": torch.tensor(self.truncated, dtype=torch.bool)}
        null = {} if self.null is None else {"null": self.null}
        if self.as_pipeline:
            return pad_rows(self.embeddings) | facts | null
        return {"values": self.embeddings.values, "offsets": self.embeddings.offsets} | facts | null


def describe_recipe(recipe: Recipe) -> dict[str, str]:
    """Its name, its version, and all of its fields as JSON: what a client rebuilds the pipeline's tensors by."""
    fields = json.dumps(recipe.to_mapping())
    return {"recipe": recipe.name, "recipe_version": str(recipe.version), "recipe_fields": fields}


def pad_rows(embeddings: Embeddings) -> dict[str, Tensor]:
    """The tensors that the recipe's pipeline hands to its transformer, those that it has; each owns its memory."""
    inputs = embeddings.to_pipeline()
    names = ("prompt_embeds", "prompt_mask", "null_embeds", "null_mask")
    found = {name: getattr(inputs, name) for name in names}
    return {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in found.items()
        if tensor is not None
    }


def join_texts(hidden: Sequence[Tensor], dtype: str, dim: int) -> Embeddings:
    """One (rows, M) a text to embeddings in `dtype`; PrecisionError naming the texts that are out of its range."""
    lengths = [len(text) for text in hidden]
    values = torch.empty(sum(lengths), dim, dtype=getattr(torch, dtype))
    if hidden:
        torch.cat(list(hidden), out=values)  # casts as it copies: beside the rows nothing is held but the answer's
    embeddings = Embeddings.from_lengths(values, lengths)
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
    """One row a text, in the columns that `t5enc encode` writes to Parquet.

    The null prompt's rows are in the metadata: their bytes in base64, and their shape.
    """
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
    if answer.null is not None:
        facts |= {"null": _to_base64(answer.null), "null_shape": list(answer.null.shape)}
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
    """(T, M) of a single text, or of the null prompt alone: the format holds one array. RefusedError for more."""
    check_single(len(answer.embeddings), answer.null is not None)
    sink = io.BytesIO()
    np.save(sink, (answer.embeddings.values if answer.null is None else answer.null).numpy())
    return sink.getvalue()


def check_single(count: int, with_null: bool) -> None:
    """RefusedError (406) for other than one text, or a null prompt alone, in NumPy's format of one array."""
    if count + with_null != 1:
        more = " and a null" if with_null else ""
        raise RefusedError(406, "Validation", f"Accept: {NPY} holds one text, got {count}{more}; ask for {NPZ}")


def write_json(answer: TokenEmbeddings) -> bytes:
    """Nested lists, for eyes and for tools that read nothing else: ten times the size of the others."""
    facts = {"lengths": answer.embeddings.lengths.tolist(), "truncated": list(answer.truncated)}
    null = b"" if answer.null is None else b',"null":' + write_rows(answer.null)
    embeddings = b',"embeddings":' + write_nested(list(answer.embeddings))
    return to_json(answer.metadata | facts)[:-1] + embeddings + null + b"}"


def write_nested(texts: Sequence[Tensor]) -> bytes:
    """One (rows, M) a text as JSON, a few rows at a time: whoever waits for Python's lock gets it in between."""
    return b"[" + b",".join(write_rows(text) for text in texts) + b"]"


def write_rows(text: Tensor) -> bytes:
    """(rows, M) as JSON."""
    parts = [to_json(rows.tolist())[1:-1] for rows in torch.split(text, ROWS_AT_ONCE) if len(rows)]
    return b"[" + b",".join(parts) + b"]"


# The first is what a client gets that accepts anything.
WRITERS: Mapping[str, Callable[[TokenEmbeddings], bytes]] = {
    SAFETENSORS: write_safetensors,
    ARROW: write_arrow,
    NPZ: write_npz,
    NPY: write_npy,
    JSON: write_json,
}


def _to_base64(values: Tensor) -> str:
    return base64.b64encode(values.contiguous().flatten().view(torch.uint8).numpy().tobytes()).decode()


def to_raw(values: Tensor, dtype: str, endianness: str) -> bytes:
    """The numbers one after the other, in `dtype` and byte order (native, little, big)."""
    cast = values.to(getattr(torch, dtype)).contiguous()
    data: NDArray[np.uint8] = cast.flatten().view(torch.uint8).numpy()
    is_native = endianness in ("native", sys.byteorder)
    return data.tobytes() if is_native else data.reshape(-1, cast.itemsize)[:, ::-1].tobytes()
