"""States in transformers' names, renamed on their way into a module, wherever it stands in a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from t5enc.checkpoint.hf_names import is_scale
from t5enc.checkpoint.weights import is_bias
from t5enc.model.norm_fusion import unfuse_tensors

# Our parameter, seen from its module -> transformers' tensors that lie in it one above the other.
Parts = Mapping[str, Sequence[str]]


def fuse_names(
    module: nn.Module, parts: Parts, state: dict[str, Any], prefix: str, missing: list[str], errors: list[str]
) -> None:
    """Rename a state in place before `module` takes what begins with `prefix`.

    Of a parameter that has only some of its parts there, the others stay as they are and count as missing. What cannot
    be taken is an error, whether loading is strict or not.
    """
    for ours, theirs in parts.items():
        given = [part for part in theirs if prefix + part in state]
        if not given or prefix + ours in state:
            continue
        rows = _find_rows(module, ours, len(theirs))
        problem = _find_problem(rows, theirs, {part: state[prefix + part] for part in given})
        if problem is not None:
            errors.append(prefix + problem)
            continue
        missing += [prefix + part for part in theirs if part not in given]
        pieces = [state.pop(prefix + part, row) for part, row in zip(theirs, rows or (), strict=True)]
        state[prefix + ours] = torch.stack(pieces) if is_bias(ours) else torch.cat(pieces)


def split_names(parts: Parts, state: dict[str, Any], prefix: str) -> None:
    """The reverse, for modules that have transformers' names."""
    for ours, theirs in parts.items():
        if prefix + ours in state:
            rows = _split(state.pop(prefix + ours), ours, len(theirs))
            state |= {prefix + part: row for part, row in zip(theirs, rows, strict=True)}


def unfuse_names(state: dict[str, Any], prefix: str) -> None:
    """Take the norms that lie in the weights of a fused state out of them, in place."""
    if any(name.startswith(prefix) and is_scale(name) for name in state):
        plain = unfuse_tensors(state)
        state.clear()
        state |= plain


def _split(tensor: Tensor, name: str, count: int) -> Sequence[Tensor]:
    return tensor.unbind() if is_bias(name) else tensor.chunk(count)


def _find_rows(module: nn.Module, name: str, count: int) -> Sequence[Tensor] | None:
    """What each part is now; None where a layer was replaced, whose weights have other names."""
    owner, _, attribute = name.rpartition(".")
    found = getattr(module.get_submodule(owner), attribute, None)
    return _split(found.detach(), name, count) if isinstance(found, Tensor) else None


def _find_problem(rows: Sequence[Tensor] | None, names: Sequence[str], given: Mapping[str, Tensor]) -> str | None:
    first = next(iter(given))
    if rows is None:
        return f"{first}: expected the model's own layer to load it into, got one that was replaced"
    for name, row in zip(names, rows, strict=True):
        if name in given and given[name].shape != row.shape:
            return f"{name}: expected {tuple(row.shape)}, got {tuple(given[name].shape)}"
        if name not in given and row.is_meta:
            return f"{name}: missing, and without it {first} cannot be loaded into an empty model"
    return None
