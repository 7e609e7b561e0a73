"""Models of the hub, found in a cache laid out by hand or through a stand-in for its client."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from t5enc.checkpoint.checkpoint import Checkpoint
from t5enc.checkpoint.folders import HubFolder, open_folder
from t5enc.checkpoint.opening import find_tokenizer, open_checkpoint
from t5enc.errors import CheckpointError
from t5enc.options import ModelSource
from tests.families import make_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "org/name"


def make_cache(source: Path, cache: Path) -> Path:
    """A hub cache in which `source` is the main revision of org/name; returns the snapshot."""
    repository = cache / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return Path(shutil.copytree(source, repository / "snapshots" / COMMIT))


def open_cached(cache: Path, **options: Any) -> Checkpoint:
    return open_checkpoint(ModelSource(model=REPO, local_files_only=True, **options), cache_dir=cache)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkpoint with a tokenizer file."""
    make_checkpoint("t5_v1_1", tmp_path / "source")
    (tmp_path / "source" / "tokenizer.json").write_text("{}")
    return tmp_path / "source"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """A hub that serves tmp_path / "source"; the files asked for and at which revision."""
    asked: list[tuple[str, str | None]] = []
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / COMMIT

    def download(repo: str, name: str, *, subfolder: str | None, revision: str | None, **_: Any) -> str:
        place = f"{subfolder}/{name}" if subfolder else name
        asked.append((place, revision))
        if not (tmp_path / "source" / place).is_file():
            raise EntryNotFoundError(place)
        (snapshot / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tmp_path / "source" / place, snapshot / place)
        return str(snapshot / place)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_a_cached_model_opens_without_the_hub(source: Path, tmp_path: Path) -> None:
    snapshot = make_cache(source, tmp_path / "cache")
    checkpoint = open_cached(tmp_path / "cache")
    local = open_checkpoint(source)
    assert checkpoint.config == local.config
    assert all(torch.equal(checkpoint.tensors[name], local.tensors[name]) for name in local.tensors)
    assert checkpoint.tokenizer_source == snapshot
    assert checkpoint.provenance == {"repository": REPO, "commit": COMMIT, "files": "model.safetensors"}
    assert checkpoint.name == REPO


def test_the_hub_and_a_local_copy_have_one_fingerprint(source: Path, tmp_path: Path) -> None:
    make_cache(source, tmp_path / "cache")
    here = open_checkpoint(source).fingerprint(tmp_path / "hashes")
    assert open_cached(tmp_path / "cache").fingerprint(tmp_path / "hashes") == here


def test_a_cached_revision_is_found_by_commit(source: Path, tmp_path: Path) -> None:
    make_cache(source, tmp_path / "cache")
    assert open_cached(tmp_path / "cache", revision=COMMIT).provenance["commit"] == COMMIT
    with pytest.raises(CheckpointError, match="revision other, cached files only"):
        open_cached(tmp_path / "cache", revision="other")


def test_a_cached_diffusers_repository_is_resolved(source: Path, tmp_path: Path) -> None:
    pipeline = tmp_path / "pipeline"
    shutil.copytree(source, pipeline / "text_encoder_3")
    (pipeline / "tokenizer_3").mkdir()
    (pipeline / "tokenizer_3" / "tokenizer.json").write_text("{}")
    (pipeline / "model_index.json").write_text('{"text_encoder_3": ["transformers", "T5EncoderModel"]}')
    snapshot = make_cache(pipeline, tmp_path / "cache")
    checkpoint = open_cached(tmp_path / "cache")
    assert checkpoint.tokenizer_source == snapshot / "tokenizer_3"
    assert checkpoint.provenance["subfolder"] == "text_encoder_3"
    assert checkpoint.provenance["commit"] == COMMIT


def test_what_is_not_cached_is_missing(source: Path, tmp_path: Path) -> None:
    (make_cache(source, tmp_path / "cache") / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json in org/name on the hub .*cached files only"):
        open_cached(tmp_path / "cache")


def test_only_needed_files_are_fetched_and_all_at_one_commit(source: Path, hub: list[tuple[str, str | None]]) -> None:
    names = list(open_checkpoint(source).tensors)
    (source / "model.safetensors").rename(source / "model-1.safetensors")
    (source / "model-2.safetensors").write_bytes(b"a decoder")
    (source / "flax_model.msgpack").write_bytes(b"something else")
    places = dict.fromkeys(names, "model-1.safetensors") | {"decoder.final_layer_norm.weight": "model-2.safetensors"}
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    checkpoint = open_checkpoint(ModelSource(model=REPO, revision="main"))
    assert checkpoint.provenance["files"] == "model-1.safetensors"
    asked = [name for name, _ in hub]
    assert "model-1.safetensors" in asked
    assert "model-2.safetensors" not in asked
    assert "flax_model.msgpack" not in asked
    first = asked.index("config.json")
    assert {revision for _, revision in hub[: first + 1]} == {"main"}
    assert {revision for _, revision in hub[first + 1 :]} == {COMMIT}


def test_a_subfolder_and_its_tokenizer_are_fetched_at_one_commit(
    source: Path, hub: list[tuple[str, str | None]]
) -> None:
    (source / "t5").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (source / name).rename(source / "t5" / name)
    assert isinstance(open_checkpoint(ModelSource(model=REPO, subfolder="t5")).tokenizer_source, Path)
    asked = [name for name, _ in hub]
    assert {revision for _, revision in hub[asked.index("t5/config.json") + 1 :]} == {COMMIT}


def test_a_tokenizer_is_found_on_the_hub(source: Path, hub: list[tuple[str, str | None]], tmp_path: Path) -> None:
    found = find_tokenizer(REPO)
    assert isinstance(found, Path)
    assert (found / "tokenizer.json").is_file()


def failing(error: Exception) -> Callable[..., str]:
    def download(*_: Any, **__: Any) -> str:
        raise error

    return download


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (GatedRepoError, r"owners grant access on https://huggingface\.co/org/name"),
        (RepositoryNotFoundError, "neither a folder here nor a repository of the hub"),
        (RevisionNotFoundError, "no revision 'v9'"),
        (ConnectionError, "ConnectionError"),
        (RuntimeError, "RuntimeError"),
    ],
)
def test_errors_of_the_hub_are_told_in_words(
    error: type[Exception], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", failing(error.__new__(error)))
    with pytest.raises(CheckpointError, match=f"org/name: .*{text}"):
        open_checkpoint(ModelSource(model=REPO, revision="v9"))


def test_an_unreachable_hub_is_told_apart_from_a_missing_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", failing(LocalEntryNotFoundError("offline")))
    monkeypatch.setattr(huggingface_hub.constants, "is_offline_mode", lambda: False)
    with pytest.raises(CheckpointError, match=r"no config\.json in .*the hub cannot be reached"):
        open_checkpoint(REPO)


def test_a_hub_that_is_not_asked_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", failing(LocalEntryNotFoundError("offline")))
    monkeypatch.setattr(huggingface_hub.constants, "is_offline_mode", lambda: True)
    with pytest.raises(CheckpointError, match=r"no config\.json in .*offline: HF_HUB_OFFLINE is set"):
        open_checkpoint(REPO)


def test_a_local_folder_wins_over_a_hub_id(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source.parent)
    assert open_checkpoint("source").provenance["folder"] == str(source)


@pytest.mark.parametrize("name", ["t5-small", "google/t5-v1_1-xxl", "org.x/a-b_c.d"])
def test_hub_ids_are_told_from_paths(name: str) -> None:
    assert isinstance(open_folder(ModelSource.of(name)), HubFolder)


def test_a_token_is_not_shown() -> None:
    source = ModelSource(model="org/name", token="hf_secret")
    assert "hf_secret" not in f"{source!r} {open_folder(source)!r}"


def test_a_path_object_is_never_a_hub_id() -> None:
    with pytest.raises(CheckpointError, match="no such path"):
        open_folder(ModelSource.of(Path("google/t5-v1_1-xxl")))
