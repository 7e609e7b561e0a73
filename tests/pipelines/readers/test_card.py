"""The dataset card: its lines of code do what they say, and nobody's own card is replaced."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pipelines.commit.card import DECODERS, is_ours, make_card, write_card
from pipelines.commit.protocol import begin_commit, commit_shard, conclude_commit
from pipelines.job import FrozenJob
from pipelines.stores.store import LocalStore
from t5enc import load_embeddings
from t5enc.storage import CODECS, STORAGE_DTYPES
from t5enc.storage.layout import CARD, JOB
from tests.pipelines.commit.memory_store import MemoryStore
from tests.pipelines.small_jobs import make_job, make_unit_shard, plan_file
from tests.t5enc.dataset.referring.making import refer

TOTALS = {"captions": 12, "truncated": 1, "errors": 0}
# The hash of a card as releases before references wrote it.
PLAIN = "2ad54277b597d2429302b4a9a16ec0a75e062c619019c57beb3743427fb8d657"
READERS = ("pandas", "polars", "duckdb", "datasets", "t5enc")


def test_its_head_names_the_shards(output: Path) -> None:
    head = yaml.safe_load((output / CARD).read_text().split("---")[1])
    (config,) = head["configs"]
    assert config == {"config_name": "default", "data_files": [{"split": "train", "path": "data/**/*.parquet"}]}


def test_it_says_what_made_it() -> None:
    job = replace(make_job(max_length=77, storage_dtype="int8"), record={"model": "google/t5"})
    card = make_card(job, TOTALS).decode()
    for said in ("12 captions", "`google/t5`", "77 tokens; 1 captions were cut", "float32, int8", "`caption`"):
        assert said in card


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("/home/ada/secret/t5-xxl", "t5-xxl"),
        ("./models/t5-xxl/", "t5-xxl"),
        ("~/t5-xxl", "t5-xxl"),
        ("../t5.safetensors", "t5.safetensors"),
        ("models/ada/t5-xxl", "t5-xxl"),
        ("s3://key:secret@bucket/t5-xxl", "t5-xxl"),
        ("google/t5-v1_1-xxl", "google/t5-v1_1-xxl"),
        ("t5-small", "t5-small"),
        ("builtin:tiny", "builtin:tiny"),
    ],
)
def test_it_names_a_model_but_not_where_its_owner_keeps_it(model: str, told: str) -> None:
    card = make_card(replace(make_job(), record={"model": model}), TOTALS).decode()
    assert f"| model | `{told}` |" in card


@pytest.mark.parametrize("refers", [False, True], ids=["plain", "referring"])
@pytest.mark.parametrize("storage", STORAGE_DTYPES)
def test_its_code_decodes_what_is_stored(
    storage: str, refers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    store = LocalStore(tmp_path / "out")
    commit = begin_commit(store, make_job(storage_dtype=storage), [plan_file(rows=5)])
    for unit in commit.left:
        commit.records[unit.name] = commit_shard(store, *make_unit_shard(commit.frozen, unit, died=[1]))
    conclude_commit(store, commit)
    shared = refer(tmp_path / "out", lambda place: place != 2, shard_rows=2) if refers else 0
    assert shared == (3 if refers else 0)
    write_card(store, FrozenJob.from_json(store.read(JOB)), commit.records.totals() | {"shared": shared})
    monkeypatch.chdir(tmp_path / "out")
    decode, *reads = re.findall(r"```python\n(.*?)```", Path(CARD).read_text(), re.S)
    assert len(reads) == len(READERS)
    _, embeddings = load_embeddings(".")
    for code in reads:
        names: dict[str, Any] = {}
        exec(decode + code, names)
        got = names["embeddings"]
        assert len(got) == 5
        for index, expected in enumerate(embeddings):
            np.testing.assert_allclose(to_numpy(got[index]), expected.float().numpy(), rtol=1e-6)
            assert "load_embeddings" in code or (got[index] is None) == (index == 1)


def test_references_are_told_of_where_there_are_any_alone() -> None:
    plain = make_card(make_job(), TOTALS)
    assert hashlib.sha256(plain).hexdigest() == PLAIN
    referenced = make_job(duplicates="referenced")
    card = make_card(referenced, TOTALS | {"shared": 2})
    assert make_card(referenced, TOTALS | {"shared": 0}) == plain
    assert b"`text_embedding_shared_row` is the number of the row there" in card
    assert b"shared" not in plain


def to_numpy(embedding: Any) -> Any:
    if embedding is None:
        return np.zeros((0, 4))
    return embedding.float().numpy() if isinstance(embedding, torch.Tensor) else embedding


def test_there_is_a_decoder_for_every_way_to_store() -> None:
    assert set(DECODERS) == set(CODECS)


def test_a_card_of_ours_follows_and_a_changed_one_stays() -> None:
    store = MemoryStore()
    write_card(store, make_job(), TOTALS)
    assert is_ours(store.read(CARD))
    write_card(store, make_job(), TOTALS | {"captions": 13})
    assert store.read(CARD) == make_card(make_job(), TOTALS | {"captions": 13})
    for own in (b"# My data\n", store.read(CARD).replace(b"13", b"14"), b""):
        store.replace(CARD, own)
        write_card(store, make_job(), TOTALS)
        assert store.read(CARD) == own
