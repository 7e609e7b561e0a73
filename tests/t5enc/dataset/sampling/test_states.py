"""States of a sampler: one of another seed, data set, format or of other options is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from t5enc.dataset.sampler import EmbeddingSampler
from t5enc.errors import ConfigError
from tests.t5enc.dataset.stand_in import StandIn, make_captions

Options = dict[str, Any]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 8}, "expected seed 8, got 7"),
        ({"batch_size": 3}, "expected one made with batch_size=3, got one made with another"),
        ({"batch_size": None, "batch_tokens": 9}, "expected one made with batch_size=None, batch_tokens=9"),
        ({"order": "sequential"}, "expected one made with order='sequential'"),
        ({"weights": [1, 1, 1]}, "expected one made with weights="),
        ({"weights": {0: 1, 1: 2, 2: 4}}, "expected one made with weights="),
        ({"dropout": 0.2}, "expected one made with dropout=0.2"),
        ({"drop_last": True}, "expected one made with drop_last=True"),
    ],
)
def test_a_state_of_other_options_is_refused_by_name(changed: Options, message: str) -> None:
    data = make_captions([3] * 5)
    options: Options = {"seed": 7, "batch_size": 2, "group_by": "row", "weights": [1, 2, 3], "dropout": 0.1}
    state = EmbeddingSampler(data, **options).state_dict()
    with pytest.raises(ConfigError, match=message):
        EmbeddingSampler(data, **(options | changed)).load_state_dict(state)


def test_a_state_of_other_captions_in_equal_number_is_refused_by_name() -> None:
    data, other = StandIn([1] * 5), StandIn([1] * 5)
    data.numbering, other.numbering = "one", "another"  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="expected one made with data='another'"):
        EmbeddingSampler(other, batch_size=2).load_state_dict(EmbeddingSampler(data, batch_size=2).state_dict())


def test_a_state_of_an_order_of_other_row_groups_is_refused_by_name() -> None:
    first, other = (
        [EmbeddingSampler(StandIn([1] * 5, groups), batch_size=2, order=order) for order in ("row_groups", "rows")]
        for groups in ([2, 3], [4, 1])
    )
    other[1].load_state_dict(first[1].state_dict())
    with pytest.raises(ConfigError, match="expected one made with row_groups="):
        other[0].load_state_dict(first[0].state_dict())


@pytest.mark.parametrize("options", [{"batch_size": 2, "bucket_rows": 4}, {"batch_tokens": 9}], ids=str)
def test_a_state_of_other_lengths_is_refused_by_name_where_batches_are_cut_by_them(options: Options) -> None:
    """The same place would be after other rows: some would come twice, and others never."""
    for name, value in {"pad_to": 7, "max_lengths": [512], "null_tokens": 3}.items():
        data, other = StandIn([1] * 5), StandIn([1] * 5)
        setattr(other, name, value)
        dropout = {"dropout": 0.5}
        state = EmbeddingSampler(data, **options, **dropout).state_dict()
        with pytest.raises(ConfigError, match=f"expected one made with lengths=.*'{name}': "):
            EmbeddingSampler(other, **options, **dropout).load_state_dict(state)
        EmbeddingSampler(other, batch_size=2).load_state_dict(EmbeddingSampler(data, batch_size=2).state_dict())


def test_equal_weights_are_the_same_however_they_are_given() -> None:
    data = make_captions([3] * 5)
    state = EmbeddingSampler(data, batch_size=2, group_by="row", weights=[1, 2, 3]).state_dict()
    EmbeddingSampler(data, batch_size=2, group_by="row", weights={2: 3, 1: 2.0, 0: 1}).load_state_dict(state)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rows": 6}, "expected rows 5, got 6"),
        ({"format": 2}, "expected format 1, got 2"),
        ({"window": -1}, "expected a whole number as window, got -1"),
        ({"epoch": None}, "expected a whole number as epoch, got None"),
        ({"options": "12"}, "expected options"),
    ],
)
def test_a_state_of_another_data_set_or_format_is_refused_by_name(changed: Mapping[str, Any], message: str) -> None:
    sampler = EmbeddingSampler(StandIn([1] * 5), batch_size=2)
    with pytest.raises(ConfigError, match=message):
        sampler.load_state_dict({**sampler.state_dict(), **changed})
