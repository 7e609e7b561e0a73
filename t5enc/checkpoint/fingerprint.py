"""What identifies a model: SHA-256 of its files or its tensors.

Large files are hashed once: a cache is keyed by absolute path, size and modification time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t5enc.config import EncoderConfig

SHA256 = re.compile(r"[0-9a-f]{64}")


def hash_model(
    config: EncoderConfig, files: Sequence[Path], tensors: Mapping[str, Tensor], cache_folder: Path | None = None
) -> str:
    """SHA-256 of a config and the content of weight files, or of tensors where there are no files."""
    content = hash_files(list(files), cache_folder) if files else [hash_tensors(tensors)]
    shape = asdict(config)
    # A later field than the first fingerprints: it counts where it says something.
    later = ["scale_logits"] if shape.pop("scale_logits") else []
    return hash_parts([shape, sorted(content), *later])


def hash_parts(parts: Sequence[Any]) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes, dtypes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        _hash_tensor(digest, name, tensors[name].contiguous())
    return digest.hexdigest()


def _hash_tensor(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.flatten().view(torch.uint8).numpy().data)


def hash_files(paths: list[Path], cache_folder: Path | None = None) -> list[str]:
    """SHA-256 of each file; what `cache_folder`/hashes.json knows is not read again.

    The default folder is ~/.cache/t5enc.
    """
    cache = (cache_folder or Path.home() / ".cache" / "t5enc") / "hashes.json"
    known = _read_cache(cache)
    hashes = {str(path.absolute()): _hash_once(path, known) for path in paths}
    if any(known.get(path) != entry for path, entry in hashes.items()):
        _write_cache(cache, known | hashes)
    return [hashes[str(path.absolute())]["sha256"] for path in paths]


def _hash_once(path: Path, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    status = path.stat()
    stamp = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    entry = known.get(str(path.absolute()))
    if entry is not None and entry | stamp == entry:
        return entry
    return stamp | {"sha256": _name_of_blob(path) or _hash_file(path)}


def _name_of_blob(path: Path) -> str | None:
    """The hub's cache names the blob of a large file by its SHA-256."""
    blob = path.resolve()
    return blob.name if blob.parent.name == "blobs" and SHA256.fullmatch(blob.name) else None


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_cache(cache: Path) -> dict[str, dict[str, Any]]:
    """What the cache knows; a damaged one knows nothing, and is written anew."""
    try:
        entries = json.loads(cache.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(entries, dict):
        return {}
    return {path: entry for path, entry in entries.items() if _is_entry(entry)}


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and bool(SHA256.fullmatch(str(entry.get("sha256"))))


def _write_cache(cache: Path, entries: dict[str, dict[str, Any]]) -> None:
    """Replaced as a whole, so that a reader never sees half of it; a read-only home only costs time."""
    with contextlib.suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=cache.parent, delete=False) as file:
            json.dump(entries, file, indent=1)
        os.replace(file.name, cache)
