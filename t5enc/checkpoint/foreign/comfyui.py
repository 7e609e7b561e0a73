"""ComfyUI's weights in eight bits: multiplied out with their scales as they are read, or refused by their format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from t5enc.checkpoint.tensor_files import ReadTensor
from t5enc.errors import CheckpointError

SCALES = ("scale_weight", "weight_scale")
# Scales of activations, and what ComfyUI's kernels are told: of no meaning once a weight is multiplied out.
INPUT_SCALES = ("scale_input", "input_scale")
FORMAT_NOTE = "comfy_quant"
# The same notes of all layers, in the header of a file.
HEADER_NOTE = "_quantization_metadata"
# Formats whose weights are numbers times a scale.
FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise")
EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8)


def apply_scales(readers: Mapping[str, ReadTensor], header: str | None = None) -> dict[str, ReadTensor]:
    """Weights with their scales in them; a scale of no weight stays, to be refused as unexpected.

    `header` is the file's note of formats, of layers named as the weights are.
    """
    for layer, told in _read_header(header).items():
        if f"{layer}.weight" in readers:
            _check_format(f"{layer}.weight", told)
    applied = {name: read for name, read in readers.items() if not name.endswith((*INPUT_SCALES, FORMAT_NOTE))}
    for name in [name for name in applied if name.endswith(SCALES)]:
        weight = name.rpartition(".")[0] + ".weight"
        if weight in applied:
            note = readers.get(name.rpartition(".")[0] + f".{FORMAT_NOTE}")
            applied[weight] = partial(_read_scaled, weight, readers[weight], applied.pop(name), note)
    return applied


def _read_scaled(name: str, read_weight: ReadTensor, read_scale: ReadTensor, read_note: ReadTensor | None) -> Tensor:
    """A weight of eight bits times its scale, or times the scale of each row, in float32."""
    if read_note is not None:
        _check_format(name, _parse(name, read_note().numpy().tobytes()))
    weight, scale = read_weight(), read_scale()
    if weight.dtype not in EIGHT_BITS or scale.numel() not in (1, len(weight)):
        found = f"{weight.dtype} with {scale.numel()} scales"
        raise CheckpointError(f"{name}: expected float8 or int8 with one scale or one a row, got {found}")
    return weight.float() * scale.float().reshape(-1, 1)


def _check_format(name: str, note: Mapping[str, Any]) -> None:
    """CheckpointError where numbers are more than times a scale: packed by four bits, or rotated."""
    given = note.get("format")
    if given is not None and given not in FORMATS:
        raise CheckpointError(f"{name}: expected one of {', '.join(FORMATS)}, got {given}")
    if note.get("convrot"):
        raise CheckpointError(f"{name}: expected plain rows, got {given} rotated (convrot)")


def _read_header(header: str | None) -> Mapping[str, Mapping[str, Any]]:
    layers = _parse(HEADER_NOTE, header.encode()).get("layers", {}) if header else {}
    if not isinstance(layers, dict):
        raise CheckpointError(f"{HEADER_NOTE}: expected layers by name, got {layers!r}")
    return {name: note for name, note in layers.items() if isinstance(note, dict)}


def _parse(name: str, content: bytes) -> Mapping[str, Any]:
    try:
        note = json.loads(content)
    except ValueError as error:
        raise CheckpointError(f"{name}: expected JSON of its format, got {error}") from error
    if not isinstance(note, dict):
        raise CheckpointError(f"{name}: expected JSON of its format, got {note!r}")
    return note
