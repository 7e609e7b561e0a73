"""A unit from captions to a shard: who gets which embedding, and what is said of those that get none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.actors.captions import CaptionBatch
from pipelines.actors.shards import (
    DIED,
    Caution,
    PreparedUnit,
    encode_carefully,
    encode_unit,
    prepare_unit,
)
from pipelines.commit.records import UnitRecord
from pipelines.commit.shard_file import hash_content
from pipelines.job import FrozenJob
from pipelines.plan.units import Unit
from pipelines.run.suspects import learn
from t5enc.embeddings import Embeddings
from t5enc.storage import STORAGE_DTYPES, read_column, working_dtype
from t5enc.text_encoder import EncodedTexts
from tests.pipelines.actors.fake_encoder import DIM, MAX_LENGTH, TEXTS_A_STREAM, TOO_LARGE, Death, FakeEncoder, decode
from tests.pipelines.small_jobs import KEPT, keep, make_job, make_shard

UNIT = Unit(source="a.parquet", first_row=100, num_rows=9, id="0" * 16)
LONG = "x" * (MAX_LENGTH + 5)
TEXTS = st.lists(st.none() | st.sampled_from(["", "a", "bb", "a red bird", LONG]), min_size=1, max_size=12)
Encoded = tuple[PreparedUnit, EncodedTexts]


def make_batch(texts: Sequence[str | None]) -> CaptionBatch:
    return CaptionBatch(
        first_row=UNIT.first_row,
        num_rows=len(texts),
        columns=keep(pa.table({"caption": pa.array(texts, pa.string())}, schema=KEPT)),
        rows=np.arange(100, 100 + len(texts)),
        caption_indices=np.zeros(len(texts), np.int32),
        texts=list(texts),
        reasons=["null caption" if text is None else None for text in texts],
    )


def encode_plainly(encoder: FakeEncoder, texts: Sequence[str | None]) -> Encoded:
    prepared = prepare_unit(UNIT, make_batch(texts), encoder)  # type: ignore[arg-type]
    return prepared, encode_unit(encoder, prepared, torch.float16, slice(None))  # type: ignore[arg-type]


def encode_with_care(
    encoder: FakeEncoder, texts: Sequence[str | None], caution: Caution, notes: list[list[int]]
) -> Encoded:
    prepared = prepare_unit(UNIT, make_batch(texts), encoder, tokenize=False)  # type: ignore[arg-type]
    encoded = encode_carefully(
        encoder,  # type: ignore[arg-type]
        prepared,
        torch.float16,
        slice(None),
        caution,
        lambda unit, captions: notes.append(captions),
    )
    return prepared, encoded


def shard(encoded: Encoded) -> tuple[pa.Table, UnitRecord]:
    return read_shard(*encoded, make_job(dim=DIM))


def read_shard(prepared: PreparedUnit, encoded: EncodedTexts, job: FrozenJob) -> tuple[pa.Table, UnitRecord]:
    record, data = make_shard(prepared, encoded, job)
    return pq.read_table(pa.BufferReader(data)), record


def read_back(table: pa.Table) -> list[str]:
    """The texts that the embeddings of a shard are of."""
    embeddings = read_column(table["text_embedding_bytes"], "float16", DIM)
    return [decode(rows[:, 0].tolist()) if len(rows) else "" for rows in embeddings]


def cut(text: str | None) -> str:
    return (text or "")[: MAX_LENGTH - 1]


@given(TEXTS)
def test_every_caption_gets_its_own_embedding(texts: list[str | None]) -> None:
    table, record = shard(encode_plainly(FakeEncoder(), texts))
    assert read_back(table) == [cut(text) for text in texts]
    assert table["text_embedding_row"].to_pylist() == list(range(100, 100 + len(texts)))
    assert table["text_embedding_error"].to_pylist() == ["null caption" if t is None else None for t in texts]
    assert table["text_embedding_truncated"].to_pylist() == [text == LONG for text in texts]
    assert table["caption"].to_pylist() == texts
    assert record.counts.captions == record.counts.input_rows + len(texts) - UNIT.num_rows


@given(TEXTS, st.frozensets(st.integers(0, 11)))
def test_care_makes_no_difference_to_what_is_stored(texts: list[str | None], alone: frozenset[int]) -> None:
    plain = shard(encode_plainly(FakeEncoder(), texts))
    careful = shard(encode_with_care(FakeEncoder(), texts, Caution(alone=alone), []))
    assert careful[0].equals(plain[0])
    assert careful[1] == plain[1]


def test_an_empty_caption_is_encoded_and_a_null_one_is_not() -> None:
    table, record = shard(encode_plainly(FakeEncoder(), ["", None]))
    assert table["text_embedding_num_tokens"].to_pylist() == [1, 0]
    assert table["text_embedding_shape"].to_pylist() == [[1, DIM], None]
    assert table["text_embedding_bytes"].null_count == 1
    assert (record.counts.encoded, record.counts.errors) == (1, 1)


def test_a_unit_without_any_text_is_a_shard_of_reasons() -> None:
    encoder = FakeEncoder()
    table, record = shard(encode_plainly(encoder, [None, None]))
    assert encoder.streams == []
    assert table["text_embedding_error"].to_pylist() == ["null caption"] * 2
    assert (record.counts.captions, record.counts.encoded, record.counts.tokens, record.counts.longest) == (2, 0, 0, 0)


def test_a_caption_that_fails_is_null_with_its_reason() -> None:
    table, record = shard(encode_plainly(FakeEncoder(failing=["bad"]), [None, "good", "bad", "good"]))
    assert table["text_embedding_error"].to_pylist() == ["null caption", None, TOO_LARGE, None]
    assert read_back(table) == ["", "good", "", "good"]
    assert table["text_embedding_truncated"].to_pylist() == [False] * 4
    assert (record.counts.encoded, record.counts.errors, record.counts.died) == (2, 2, 0)


def test_the_record_says_what_is_in_the_shard() -> None:
    table, record = shard(encode_plainly(FakeEncoder(), ["a", "bb", None, LONG]))
    assert (record.name, record.source, record.first_row) == (UNIT.name, UNIT.source, 100)
    assert (record.counts.tokens, record.counts.longest, record.counts.truncated) == (
        2 + 3 + MAX_LENGTH,
        len(LONG) + 1,
        1,
    )
    assert record.content == hash_content(table)


def test_several_captions_of_a_row_are_rows() -> None:
    indices = np.array([0, 1, 0], np.int32)
    batch = replace(make_batch(["a", "b", "c"]), rows=np.array([100, 100, 101]), caption_indices=indices)
    encoder: Any = FakeEncoder()
    prepared = prepare_unit(UNIT, batch, encoder)
    table, _ = read_shard(prepared, encode_unit(encoder, prepared, torch.float16, slice(None)), make_job(dim=DIM))
    assert table["text_embedding_row"].to_pylist() == [100, 100, 101]
    assert table["text_embedding_caption_index"].to_pylist() == [0, 1, 0]


def test_a_suspect_notes_what_it_has_in_hand_before_every_step_and_nothing_afterwards() -> None:
    notes: list[list[int]] = []
    texts = ["a", None, "b", "c", "d", "e"]
    encode_with_care(FakeEncoder(), texts, Caution(alone=frozenset({2})), notes)
    assert notes == [[0, 3, 4, 5], [0, 3, 4], [5], [2], [2], []]
    assert TEXTS_A_STREAM == 3


def test_a_dead_caption_and_its_copies_are_given_up_and_no_others() -> None:
    encoder = FakeEncoder(killers=["kill"])
    table, record = shard(encode_with_care(encoder, ["a", "kill", "b", "kill"], Caution(dead=frozenset({3})), []))
    assert table["text_embedding_error"].to_pylist() == [None, DIED, None, DIED]
    assert read_back(table) == ["a", "", "b", ""]
    assert (record.counts.errors, record.counts.died) == (2, 2)


@given(st.lists(st.sampled_from(["a", "b", "c", "kill", "murder"]), min_size=1, max_size=12))
def test_whatever_kills_is_found_within_a_few_deaths(texts: list[str]) -> None:
    encoder, caution, deaths = FakeEncoder(killers=["kill", "murder"]), Caution(), 0
    while True:
        notes: list[list[int]] = []
        try:
            encoded = encode_with_care(encoder, texts, caution, notes)
            break
        except Death:
            caution, deaths = learn(caution, notes[-1]), deaths + 1
    table, record = shard(encoded)
    assert read_back(table) == ["" if text in ("kill", "murder") else text for text in texts]
    assert record.counts.died == texts.count("kill") + texts.count("murder")
    assert deaths <= 2 * len({"kill", "murder"} & set(texts)) + math.ceil(len(texts) / TEXTS_A_STREAM)


@pytest.mark.parametrize("storage", STORAGE_DTYPES)
def test_a_shard_is_stored_as_the_job_says(storage: str) -> None:
    encoder: Any = FakeEncoder()
    prepared = prepare_unit(UNIT, make_batch(["ab"]), encoder)
    values = torch.full((3, DIM), 2.0, dtype=working_dtype(storage))
    encoded = EncodedTexts(Embeddings.from_lengths(values, [3]))
    table, _ = read_shard(prepared, encoded, make_job(dim=DIM, storage_dtype=storage))
    assert table["text_embedding_dtype"].to_pylist() == [storage]
    torch.testing.assert_close(read_column(table["text_embedding_bytes"], storage, DIM)[0], values, rtol=1e-3, atol=0)
