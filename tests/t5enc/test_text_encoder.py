"""Texts to embeddings: as transformers has them, in the order given, identical ones once, bad ones by name."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from t5enc.checkpoint.builtin import open_builtin, sample_captions
from t5enc.errors import CheckpointError, ConfigError, InputError
from t5enc.text.streams import EncoderCounters
from t5enc.text_encoder import TextEncoder, _tell_unused
from tests.families import FAMILIES
from tests.t5enc.conftest import Make, load
from tests.t5enc.reference import ROUNDING, distance, random_ids, reference

LENGTHS = [*range(1, 30), 63, 64, 65, 127, 128, 129, 255, 256, 257, 400, 511, 512, 513, 599, 600]
RUNGS = (16, 32, 64)


@pytest.fixture(scope="module")
def tiny() -> TextEncoder:
    """builtin:tiny; tests reset its counters."""
    return TextEncoder.from_pretrained("builtin:tiny", max_length=32, token_budget=64)


@pytest.fixture(scope="module")
def flex(make: Make, compiler: None) -> TextEncoder:
    """umt5 through compiled Flex, with few rungs."""
    return load(make("umt5").folder, attention="flex", max_length=64, token_budget=RUNGS[-1])


@pytest.mark.parametrize("budget", [600, 4096])
@pytest.mark.parametrize("family", FAMILIES)
def test_texts_of_1_to_600_tokens_in_any_order_equal_transformers(family: str, budget: int, make: Make) -> None:
    folder, model = make(family)
    encoder = load(folder, max_length=600, token_budget=budget)
    texts = random_ids(LENGTHS)
    random.Random(budget).shuffle(texts)
    assert distance(encoder.encode_tokens(texts), reference(model, texts)) < ROUNDING


def test_texts_equal_transformers_with_its_own_tokenizer(tmp_path: Path) -> None:
    import transformers

    from t5enc.checkpoint.builtin import write_builtin

    write_builtin("tiny-umt5", tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    model = transformers.UMT5EncoderModel.from_pretrained(tmp_path)
    captions = ["", *sample_captions()[:40]]
    ids = [np.array(tokenizer(caption)["input_ids"], dtype=np.int32) for caption in captions]
    embeddings = TextEncoder.from_pretrained(tmp_path).encode(captions)
    assert distance(embeddings, reference(model, ids)) < ROUNDING


@pytest.mark.parametrize(("model", "options"), [(Path("no/t5"), {}), ("builtin:tiny", {"tokenizer": Path("no/t5")})])
def test_a_path_object_that_leads_to_nothing_is_not_looked_for_on_the_hub(model: Any, options: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"^no/t5: expected a folder, .*, got no such path$"):
        TextEncoder.from_pretrained(model, **options)


def test_a_tokenizer_may_be_a_sentencepiece_model_itself(tiny: TextEncoder) -> None:
    model = open_builtin("tiny").tokenizer_source
    assert isinstance(model, bytes)
    given = TextEncoder.from_pretrained("builtin:tiny", tokenizer=model, max_length=32)
    assert given.tokenizer.fingerprint == tiny.tokenizer.fingerprint


def test_flex_equals_transformers_alone_and_in_company(flex: TextEncoder, make: Make) -> None:
    texts = random_ids([1, 2, 5, 5, 15, 16, 17, 31, 33, 50, 63, 64])
    expected = reference(make("umt5").model, texts)
    assert distance(flex.encode_tokens(texts), expected) < ROUNDING
    assert distance((flex.encode_tokens([text])[0] for text in texts), expected) < ROUNDING


def test_flex_compiles_no_more_graphs_than_there_are_rungs(flex: TextEncoder) -> None:
    for seed in range(30):
        lengths = np.random.RandomState(seed).randint(1, 64, size=1 + seed % 7)
        flex.encode_tokens(random_ids(lengths, seed=seed))
    assert flex.compiled_graphs <= len(RUNGS)
    flex.warm_up(all_rungs=True)
    assert flex.compiled_graphs == len(RUNGS)


def test_sdpa_compiles_nothing(tiny: TextEncoder) -> None:
    tiny.encode(["a red bird"])
    assert tiny.compiled_graphs == 0


def test_identical_texts_are_encoded_once_and_stored_for_each(tiny: TextEncoder) -> None:
    tiny.counters = EncoderCounters()
    texts = ["a bird", "two birds", "a bird", "a bird", "two birds"]
    embeddings = tiny.encode(texts)
    counters = tiny.counters
    assert (counters.texts, counters.computed_texts) == (5, 2)
    assert counters.tokens == len(embeddings.values)
    assert counters.useful_tokens == len(embeddings[0]) + len(embeddings[1])
    for copy, original in ((2, 0), (3, 0), (4, 1)):
        assert torch.equal(embeddings[copy], embeddings[original])


@pytest.mark.parametrize("seed", range(3))
def test_embeddings_are_in_the_order_of_the_texts(seed: int, tiny: TextEncoder) -> None:
    captions = sample_captions()[:60]
    order = random.Random(seed).choices(range(len(captions)), k=80)
    in_order = tiny.encode(captions)
    shuffled = tiny.encode([captions[index] for index in order])
    assert distance(shuffled, [in_order[index] for index in order]) < ROUNDING


def test_no_stream_is_larger_than_the_budget_and_each_is_announced(tiny: TextEncoder) -> None:
    ids = tiny.tokenize(sample_captions()[:50]).ids
    ids += ids[:5]
    streams: list[list[int]] = []
    tiny.counters = EncoderCounters()
    tiny.encode_ragged(ids, on_stream=streams.append)
    assert sorted(index for stream in streams for index in stream) == list(range(55))
    assert all(sum(len(ids[index]) for index in stream if index < 50) <= 64 for stream in streams)
    assert tiny.counters.streams == len(streams)


def test_rows_are_told_before_they_are_rounded_and_which_are_kept(tiny: TextEncoder) -> None:
    ids = tiny.tokenize(sample_captions()[:20]).ids
    told: list[torch.Tensor] = []

    def keep(hidden: torch.Tensor, kept: np.ndarray) -> None:
        told.append(hidden[torch.from_numpy(kept)])

    rounded = tiny.encode_ragged(ids, dtype=torch.bfloat16, on_rows=keep).embeddings.values
    assert all(part.dtype == torch.float32 for part in told)
    assert sorted(torch.cat(told).bfloat16().float().sum(1).tolist()) == sorted(rounded.float().sum(1).tolist())


def test_the_fill_of_padded_streams_counts_their_padding(flex: TextEncoder) -> None:
    flex.counters = EncoderCounters()
    assert flex.counters.fill == 1.0
    flex.encode_tokens(random_ids([5, 12]))
    assert (flex.counters.useful_tokens, flex.counters.stream_tokens) == (17, 32)
    assert flex.counters.fill == 17 / 32


def test_warming_up_is_not_counted(tiny: TextEncoder) -> None:
    tiny.counters = EncoderCounters()
    tiny.warm_up(all_rungs=True)
    assert tiny.counters == EncoderCounters()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, None])
def test_values_come_in_the_dtype_asked_for(dtype: torch.dtype | None, tiny: TextEncoder) -> None:
    ids = tiny.tokenize(["a bird", "two birds"]).ids
    values = tiny.encode_ragged(ids, dtype=dtype, device="cpu").embeddings.values
    assert values.dtype == (dtype or torch.float32)
    assert torch.equal(values, tiny.encode_tokens(ids).values.to(values.dtype))


def test_a_text_that_is_too_long_is_cut_and_keeps_its_end_token(tiny: TextEncoder) -> None:
    text = "a bird in a tree " * 30
    tokenized = tiny.tokenize([text, "a bird"])
    assert tokenized.truncated.tolist() == [True, False]
    assert len(tokenized.ids[0]) == 32
    assert tokenized.ids[0][-1] == tokenized.ids[1][-1] == tiny.tokenizer.eos_id
    assert tiny.encode([text]).lengths.tolist() == [32]


def test_the_empty_text_is_its_end_token(tiny: TextEncoder) -> None:
    embeddings = tiny.encode(["", "a bird"])
    assert embeddings.lengths[0] == 1
    assert distance([embeddings[0]], [tiny.encode_tokens([[tiny.tokenizer.eos_id]]).values]) < ROUNDING


def test_no_texts_give_no_embeddings(tiny: TextEncoder) -> None:
    embeddings = tiny.encode([])
    assert len(embeddings) == 0
    assert embeddings.values.shape == (0, 64)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, lambda ids: np.array(ids, dtype=np.uint16)])
def test_ids_may_come_in_any_kind_of_sequence(kind: Callable[[list[int]], Sequence[int]], tiny: TextEncoder) -> None:
    assert torch.equal(tiny.encode_tokens([kind([5, 6, 1])]).values, tiny.encode_tokens([[5, 6, 1]]).values)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[5], []], r"ids\[1\]: expected 1 to 32 token ids, got shape \(0,\)"),
        ([[5], [5] * 33], r"ids\[1\]: expected 1 to 32 token ids, got shape \(33,\)"),
        ([[[5]]], r"ids\[0\]: expected 1 to 32 token ids, got shape \(1, 1\)"),
        ([5], r"ids\[0\]: expected 1 to 32 token ids, got shape \(\)"),
        ([[[5], [5, 6]]], r"ids\[0\]: expected a flat list of token ids, got "),
        ([[1000]], r"ids\[0\]: expected ids from 0 to 999, got 1000"),
        ([[5, -1]], r"ids\[0\]: expected ids from 0 to 999, got -1"),
        ([[2**32 + 5]], r"ids\[0\]: expected ids from 0 to 999, got 4294967301"),
        ([[2**80]], r"ids\[0\]: expected integers, got object"),
        ([[5, 6.5]], r"ids\[0\]: expected integers, got float64"),
        ([["a"]], r"ids\[0\]: expected integers, got <U1"),
        ([[True]], r"ids\[0\]: expected integers, got bool"),
        ([[None]], r"ids\[0\]: expected integers, got object"),
    ],
)
def test_ids_that_are_none_are_refused_by_index(ids: Any, message: str, tiny: TextEncoder) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        tiny.encode_tokens(ids)


def test_what_is_no_text_is_refused_by_index(tiny: TextEncoder) -> None:
    with pytest.raises(InputError, match=r"^texts\[1\]: expected a string, got NoneType"):
        tiny.encode(["a", None])  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"^texts: expected a list of strings, got one string"):
        tiny.encode("a bird")


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^max_len: no such option; expected one of model, "):
        TextEncoder.from_pretrained("builtin:tiny", max_len=5)


def test_an_encoder_says_what_it_was_resolved_to(tiny: TextEncoder) -> None:
    assert (tiny.options.device, tiny.options.dtype, tiny.options.attention) == ("cpu", "float32", "sdpa")
    assert tiny.dtype == torch.float32
    assert tiny.config.model_dim == 64


def test_the_number_of_threads_is_set_where_the_model_is_loaded() -> None:
    before = torch.get_num_threads()
    try:
        TextEncoder.from_pretrained("builtin:tiny", num_threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_every_dtype_runs_on_every_cpu(make: Make) -> None:
    texts = random_ids([3, 20])
    expected = reference(make().model, texts)
    for dtype in ("float32", "bfloat16", "float16"):
        embeddings = load(make().folder, dtype=dtype).encode_tokens(texts)
        assert embeddings.values.dtype == getattr(torch, dtype)
        assert distance(embeddings, expected) < 3e-2


def test_a_compile_cache_that_nothing_is_kept_in_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _tell_unused.cache_clear()
    for _ in range(2):
        TextEncoder.from_pretrained("builtin:tiny", attention="sdpa", device="cpu", compile_cache=str(tmp_path / "a"))
    assert caplog.messages == [
        "compile_cache: expected attention flex, got sdpa, which compiles nothing: it is not used"
    ]
    assert not (tmp_path / "a").exists()
