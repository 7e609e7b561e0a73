"""Laws of ragged embeddings: what goes in by lengths comes out by index, slice, padding and pooling."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from t5enc.embeddings import Embeddings
from t5enc.errors import InputError

DIM = 3
lengths = st.lists(st.integers(0, 5), max_size=8)


def make_texts(lengths: list[int]) -> list[Tensor]:
    """One (tokens, DIM) matrix a text, no two rows alike."""
    values = torch.arange(1, sum(lengths) * DIM + 1, dtype=torch.float32).view(-1, DIM)
    return list(torch.split(values, lengths)) if lengths else []


def join(texts: list[Tensor]) -> Embeddings:
    return Embeddings.from_lengths(torch.cat([torch.empty(0, DIM), *texts]), [len(text) for text in texts])


def assert_holds(embeddings: Embeddings, texts: list[Tensor]) -> None:
    assert len(embeddings) == len(texts)
    assert embeddings.lengths.tolist() == [len(text) for text in texts]
    for found, expected in zip(embeddings, texts, strict=True):
        assert torch.equal(found, expected)


@given(lengths=lengths)
def test_texts_come_back_by_index_from_both_ends(lengths: list[int]) -> None:
    texts = make_texts(lengths)
    embeddings = join(texts)
    assert_holds(embeddings, texts)
    for index in range(-len(texts), len(texts)):
        assert torch.equal(embeddings[index], texts[index])
    for index in (len(texts), -len(texts) - 1):
        with pytest.raises(IndexError, match=f"text {index} of {len(texts)}"):
            embeddings[index]


@given(lengths=lengths, data=st.data())
def test_a_slice_holds_what_a_slice_of_the_list_holds(lengths: list[int], data: st.DataObject) -> None:
    texts = make_texts(lengths)
    bound = st.none() | st.integers(-10, 10)
    part = slice(data.draw(bound), data.draw(bound))
    sliced = join(texts)[part]
    assert_holds(sliced, texts[part])
    assert sliced.offsets[0] == 0
    assert_holds(sliced[1:], texts[part][1:])


def test_slices_and_texts_are_views() -> None:
    embeddings = join(make_texts([2, 3, 1]))
    storage = embeddings.values.untyped_storage().data_ptr()
    assert embeddings[1:].values.untyped_storage().data_ptr() == storage
    assert embeddings[1].untyped_storage().data_ptr() == storage


def test_slices_with_a_step_are_refused() -> None:
    with pytest.raises(IndexError, match="expected a slice of step 1, got -1"):
        join(make_texts([1, 2]))[::-1]


@given(parts=st.lists(lengths, min_size=1, max_size=4))
def test_concatenated_parts_hold_the_texts_of_all(parts: list[list[int]]) -> None:
    texts = [make_texts(part) for part in parts]
    assert_holds(Embeddings.concatenate([join(part) for part in texts]), [text for part in texts for text in part])


@given(lengths=lengths)
def test_parts_of_a_whole_concatenate_to_it(lengths: list[int]) -> None:
    texts = make_texts(lengths)
    whole = join(texts)
    assert_holds(Embeddings.concatenate([whole[:2], whole[2:3], whole[3:]]), texts)


def test_offsets_may_begin_anywhere_in_the_values() -> None:
    texts = make_texts([2, 1, 3])
    values = torch.cat(texts)
    tail = Embeddings(values, torch.tensor([2, 3, 6]))
    assert_holds(tail, texts[1:])
    assert_holds(Embeddings.concatenate([tail, tail]), texts[1:] * 2)
    assert torch.equal(tail.to_padded()[0], join(texts[1:]).to_padded()[0])
    assert torch.equal(tail.pooled(), join(texts[1:]).pooled())


@given(lengths=lengths, extra=st.integers(0, 3))
def test_padded_embeddings_are_zero_beyond_each_text(lengths: list[int], extra: int) -> None:
    texts = make_texts(lengths)
    size = max(lengths, default=0) + extra
    padded, mask = join(texts).to_padded(size)
    assert padded.shape == (len(texts), size, DIM)
    assert mask.sum(1).tolist() == lengths
    for index, text in enumerate(texts):
        assert torch.equal(padded[index, : len(text)], text)
        assert not padded[index, len(text) :].any()
        assert mask[index, : len(text)].all()


def test_padding_is_as_long_as_the_longest_text_unless_told() -> None:
    embeddings = join(make_texts([2, 4]))
    assert embeddings.to_padded()[0].shape == (2, 4, DIM)
    with pytest.raises(InputError, match="expected length of at least the longest text's 4, got 3"):
        embeddings.to_padded(3)


@given(lengths=lengths.filter(bool))
def test_pooling_takes_the_mean_or_the_first_token(lengths: list[int]) -> None:
    texts = make_texts(lengths)
    embeddings = join(texts)
    for index, text in enumerate(texts):
        mean, first = (text.mean(0), text[0]) if len(text) else (torch.zeros(DIM), torch.zeros(DIM))
        assert torch.equal(embeddings.pooled()[index], mean)
        assert torch.equal(embeddings.pooled("first")[index], first)


def test_pooled_vectors_are_float32_and_normalised_on_request() -> None:
    embeddings = Embeddings.from_lengths(torch.full((3, 4), 2.0, dtype=torch.float16), [3, 0])
    assert embeddings.pooled().dtype == torch.float32
    assert embeddings.pooled(normalize=True).tolist() == [[0.5] * 4, [0.0] * 4]
    with pytest.raises(InputError, match=r"expected one of cls, .*first, got 'last'"):
        embeddings.pooled("last")


def test_values_and_offsets_must_fit() -> None:
    with pytest.raises(InputError, match=r"expected values \(T, M\) and offsets \(N \+ 1,\), got \(3,\) and \(1,\)"):
        Embeddings(torch.zeros(3), torch.tensor([0]))
    with pytest.raises(InputError, match="offsets end at 4, values at 3"):
        Embeddings(torch.zeros(3, 2), torch.tensor([0, 4]))


def test_the_public_name_is_the_class() -> None:
    import t5enc

    assert t5enc.Embeddings is Embeddings
    assert embeddings_dim(torch.zeros(0, 7)) == 7


def embeddings_dim(values: Tensor) -> int:
    return Embeddings(values, torch.zeros(1, dtype=torch.int64)).dim
