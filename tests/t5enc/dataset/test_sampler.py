"""One sequence of batches by seed and epoch, dealt to any number of ranks, stopped and resumed anywhere."""

from __future__ import annotations

import json
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5enc.dataset.draws import Draw
from t5enc.dataset.sampler import EmbeddingSampler
from t5enc.errors import ConfigError
from tests.t5enc.dataset.stand_in import BILLION, Billion, StandIn, make_captions

WORLDS = st.integers(1, 5)
Options = dict[str, Any]


@st.composite
def make_options(draw: st.DrawFn) -> Options:
    """Everything that an order depends on."""
    options: Options = {"seed": draw(st.integers(0, 3)), "drop_last": draw(st.booleans())}
    if draw(st.booleans()):
        options |= {"batch_tokens": draw(st.integers(1, 60)), "bucket_rows": draw(st.none() | st.integers(1, 40))}
    else:
        size = draw(st.integers(1, 6))
        options |= {"batch_size": size, "bucket_rows": draw(st.sampled_from([None, size, 4 * size]))}
    options["order"] = draw(st.sampled_from(["rows", "row_groups", "sequential"]))
    options["dropout"] = draw(st.sampled_from([0.0, 0.3, 1.0]))
    return options | draw(st.sampled_from([{}, {"group_by": "row"}, {"group_by": "id", "weights": [1, 2, 3, 4]}]))


@st.composite
def make_data(draw: st.DrawFn) -> StandIn:
    data = make_captions(draw(st.lists(st.integers(1, 4), max_size=20)))
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    data._offsets = np.array([0, *cuts, len(data)])
    return data


def open_world(data: StandIn, options: Options, world: int) -> list[EmbeddingSampler]:
    return [EmbeddingSampler(data, rank=rank, world_size=world, **options) for rank in range(world)]


def read_world(samplers: list[EmbeddingSampler], steps: int | None = None) -> list[list[Any]]:
    """The batches of an epoch, or of its first steps, as all ranks together see them, with the empty ones."""
    taken = [list(zip(range(10**6 if steps is None else steps), sampler, strict=False)) for sampler in samplers]
    assert len({len(batches) for batches in taken}) == 1
    return [batch for step in zip(*taken, strict=True) for _, batch in step]


def read_alone(data: StandIn, options: Options) -> list[list[Any]]:
    return read_world(open_world(data, options, 1))


@given(make_data(), make_options(), WORLDS)
def test_all_worlds_see_one_sequence_and_make_equal_steps(data: StandIn, options: Options, world: int) -> None:
    expected = read_alone(data, options)
    samplers = open_world(data, options, world)
    steps = {len(sampler) for sampler in samplers}
    seen = read_world(samplers)
    assert steps == {len(seen) // world}
    if options["drop_last"]:
        assert seen == expected[: len(expected) // world * world]
    else:
        assert [batch for batch in seen if batch] == expected
        assert all(not batch for batch in seen[len(expected) :])


@given(make_data(), make_options())
def test_each_row_comes_once_an_epoch(data: StandIn, options: Options) -> None:
    options |= {"drop_last": False}
    drawn = [item for batch in read_alone(data, options) for item in batch]
    rows = [item.row if options["dropout"] else item for item in drawn]
    assert all(isinstance(item, Draw if options["dropout"] else int) for item in drawn)
    if "group_by" not in options:
        assert sorted(rows) == list(range(len(data)))
    else:
        ids = data.read_column("id").to_pylist()
        assert sorted(ids[row] for row in rows) == sorted(set(ids))


@given(make_data(), make_options(), st.lists(st.tuples(WORLDS, st.integers(0, 6)), max_size=4))
def test_a_run_goes_on_at_any_world_size_after_any_step(
    data: StandIn, options: Options, parts: list[tuple[int, int]]
) -> None:
    """Stopped as often as one likes: what was seen is the beginning, and what comes is the rest, draws included."""
    options |= {"drop_last": False}
    expected = read_alone(data, options)
    state, seen = None, []
    for world, steps in [*parts, (3, None)]:
        samplers = open_world(data, options, world)
        for sampler in samplers:
            if state is not None:
                sampler.load_state_dict(json.loads(state))
        seen += [batch for batch in read_world_steps(samplers, steps) if batch]
        states = {json.dumps(sampler.state_dict()) for sampler in samplers}
        assert len(states) == 1
        state = states.pop()
        if samplers[0].epoch:
            break
    assert seen == expected


def read_world_steps(samplers: list[EmbeddingSampler], steps: int | None) -> list[list[Any]]:
    """As `read_world`, without asking for a step more than is read."""
    iterators = [iter(sampler) for sampler in samplers]
    found = []
    while steps is None or steps > 0:
        step = [next(iterator, None) for iterator in iterators]
        if None in step:
            break
        found += step
        steps = None if steps is None else steps - 1
    return found


@given(make_data(), make_options(), st.integers(0, 5))
def test_epochs_follow_each_other_and_are_found_by_number(data: StandIn, options: Options, epoch: int) -> None:
    following = EmbeddingSampler(data, rank=0, world_size=1, **options)
    for number in range(epoch):
        assert following.epoch == number
        list(following)
    chosen = EmbeddingSampler(data, rank=0, world_size=1, **options)
    chosen.set_epoch(epoch)
    assert list(chosen) == list(following)
    assert chosen.epoch == following.epoch == epoch + 1


def test_the_same_epoch_keeps_the_position_and_another_begins() -> None:
    sampler = EmbeddingSampler(StandIn([1] * 20), batch_size=2)
    whole = list(sampler)
    sampler.set_epoch(0)
    first = next(iter(sampler))
    sampler.set_epoch(0)
    assert [first, *sampler] == whole
    next(iter(sampler))
    sampler.set_epoch(5)
    assert len(list(sampler)) == 10


def test_a_state_at_the_end_of_an_epoch_has_nothing_left_of_it() -> None:
    sampler = EmbeddingSampler(StandIn([1] * 4), batch_size=2)
    batches = iter(sampler)
    next(batches), next(batches)
    resumed = EmbeddingSampler(StandIn([1] * 4), batch_size=2)
    resumed.load_state_dict(sampler.state_dict())
    resumed.set_epoch(0)
    assert list(resumed) == []
    assert resumed.epoch == 1


def test_a_loop_that_counts_its_steps_goes_on_with_the_next_epoch() -> None:
    """It never asks for what comes after the last batch, and so never sees that the iteration ends."""
    sampler, counted = (EmbeddingSampler(StandIn([1] * 6), batch_size=2) for _ in range(2))
    expected = [*iter(sampler), *iter(sampler), *iter(sampler)]
    seen = [batch for _ in range(3) for _, batch in zip(range(3), counted, strict=False)]
    assert seen == expected
    assert counted.is_over
    counted.set_epoch(2)
    assert [*iter(counted)] == []


def test_epochs_differ() -> None:
    sampler = EmbeddingSampler(StandIn([1] * 50), batch_size=50)
    orders = [tuple(batch) for _ in range(20) for batch in sampler]
    assert len(set(orders)) == 20


def test_rank_and_world_are_those_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(EmbeddingSampler(StandIn([1] * 10), batch_size=2))
    sampler = EmbeddingSampler(StandIn([1] * 10), batch_size=2)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert len(sampler) == 3
    assert list(sampler) == [whole[1], whole[3], []]


@pytest.mark.parametrize("group_by", [None, "row"])
def test_as_many_captions_are_dropped_as_asked_and_others_each_epoch(group_by: str | None) -> None:
    samples, rate = 20_000, 0.1
    data = StandIn([1] * samples) if group_by is None else make_captions([1, 3] * (samples // 2))
    sampler = EmbeddingSampler(data, batch_size=500, dropout=rate, group_by=group_by)
    dropped = [{draw.row for batch in sampler for draw in batch if draw.dropped} for _ in range(2)]
    for rows in dropped:
        assert abs(len(rows) - samples * rate) <= 3 * math.sqrt(samples * rate * (1 - rate))
    if group_by is None:
        both = len(dropped[0] & dropped[1])
        assert abs(both - samples * rate**2) <= 3 * math.sqrt(samples * rate**2)


def test_dropped_captions_and_drawn_ones_have_nothing_in_common() -> None:
    samples = 20_000
    sampler = EmbeddingSampler(make_captions([2] * samples), batch_size=500, dropout=0.5, group_by="row")
    draws = [draw for batch in sampler for draw in batch]
    both = sum(draw.dropped and draw.row % 2 for draw in draws)
    assert abs(both - samples / 4) <= 3 * math.sqrt(samples * 3 / 16)


def test_a_dropped_caption_is_as_long_as_the_null_prompt() -> None:
    data = StandIn([10] * 64)
    data.null_tokens = 2  # type: ignore[attr-defined]
    assert [len(batch) for batch in EmbeddingSampler(data, batch_tokens=20, dropout=1.0)][:3] == [10, 10, 10]
    assert {len(batch) for batch in EmbeddingSampler(data, batch_tokens=20)} == {2}


def test_rows_that_are_padded_to_one_length_are_all_as_long() -> None:
    data = StandIn([1, 2, 3, 4] * 5)
    data.pad_to = 5  # type: ignore[attr-defined]
    assert {len(batch) for batch in EmbeddingSampler(data, batch_tokens=20)} == {4}


def test_no_batch_sequence_ever_changes() -> None:
    lengths = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]
    counted = list(EmbeddingSampler(StandIn(lengths), seed=1, batch_size=5, dropout=0.5))
    assert [[draw.row for draw in batch] for batch in counted] == [[6, 3, 11, 1, 9], [7, 8, 2, 10, 5], [0, 4]]
    assert [draw.row for batch in counted for draw in batch if draw.dropped] == [7, 5, 0]
    by_tokens = EmbeddingSampler(StandIn(lengths, [4, 4, 4]), seed=1, batch_tokens=12, order="row_groups")
    assert list(by_tokens) == [[11], [4, 7], [0, 2], [1, 3, 6, 9], [8, 10], [5]]
    drawn = EmbeddingSampler(make_captions([3, 2, 4, 1]), seed=1, batch_size=2, group_by="row", weights=[1, 2, 3, 4])
    assert list(drawn) == [[2, 9], [4, 5]]


@pytest.mark.parametrize("options", [{}, {"dropout": 0.1}])
def test_a_billion_rows_are_read_resumed_and_counted_without_an_array_of_them(options: Options) -> None:
    sampler = EmbeddingSampler(Billion(), batch_size=256, **options)
    state = sampler.state_dict() | {"window": BILLION // 256 - 2, "epoch": 3}
    tracemalloc.start()
    try:
        sampler.load_state_dict(state)
        assert [len(batch) for batch in sampler] == [256, 256]
        assert len(sampler) == BILLION // 256
        assert tracemalloc.get_traced_memory()[1] < 300_000
    finally:
        tracemalloc.stop()


@given(make_data(), make_options(), st.integers(0, 2**64 - 1), st.integers(0, 10**9))
def test_a_state_is_less_than_200_bytes(data: StandIn, options: Options, seed: int, epoch: int) -> None:
    sampler = EmbeddingSampler(data, **(options | {"seed": seed}))
    sampler.set_epoch(epoch)
    state = sampler.state_dict() | {"rows": BILLION, "window": BILLION, "batches": 10**6}
    assert len(json.dumps(state)) < 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "shuffled"}, "order: expected one of rows, row_groups, sequential, got 'shuffled'"),
        ({"seed": -1}, "seed: expected a whole number from 0"),
        ({"dropout": 1.5}, "dropout: expected a number from 0 to 1, got 1.5"),
        ({"weights": [1]}, "weights: expected group_by beside them"),
        ({"rank": 1}, "rank and world_size: expected both or neither"),
    ],
)
def test_options_that_cannot_be_used_are_refused_by_name(options: Options, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EmbeddingSampler(StandIn([1]), **({"batch_size": 1} | options))


def test_what_is_known_of_an_epoch_is_kept_when_its_state_is_loaded() -> None:
    data = StandIn([1] * 20)
    asked: list[int] = []
    measure = data.lengths
    data.lengths = lambda rows=None: asked.append(len(rows)) or measure(rows)  # type: ignore[func-returns-value,method-assign]
    sampler = EmbeddingSampler(data, batch_tokens=4, bucket_rows=10)
    first = [batch for _, batch in zip(range(2), sampler, strict=False)]
    sampler.load_state_dict(sampler.state_dict())
    assert len([*first, *iter(sampler)]) == 6  # a list of the sampler itself would ask for its length, which is counted
    assert asked == [10, 10]


def test_an_epoch_below_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="epoch: expected a whole number of at least 0, got -1"):
        EmbeddingSampler(StandIn([1]), batch_size=1).set_epoch(-1)
