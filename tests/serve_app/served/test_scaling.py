"""How many replicas a load wants: laws of the pure part, and what Serve makes of it over time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.served.scaling import LOAD, LOOK_BACK, POLICY, choose_target, count_replicas, follow_load, make_scaling

LOADS = st.lists(st.integers(0, 10**9).map(lambda tokens: tokens / 4096), min_size=1, max_size=8)
RANGES = st.tuples(st.integers(1, 50), st.integers(1, 50)).map(sorted)


@dataclass
class Context:
    """What Ray tells a policy, as far as ours reads it."""

    aggregated_metrics: dict[str, dict[str, float]] | None = None
    target_num_replicas: int = 1
    current_num_replicas: int = 1
    capacity_adjusted_min_replicas: int = 1
    capacity_adjusted_max_replicas: int = 8
    total_num_requests: float = 0
    config: Any = None
    policy_state: dict[str, Any] = field(default_factory=dict)


@given(loads=LOADS, bounds=RANGES)
def test_as_many_replicas_as_the_tokens_fill_within_the_range(loads: list[float], bounds: list[int]) -> None:
    low, high = bounds
    found = count_replicas(loads, low, high)
    assert low <= found <= high
    if low < found < high:
        assert found - 1 < sum(loads) < found + 1e-6


@given(loads=LOADS, more=st.floats(0, 1e6))
def test_more_load_never_wants_fewer_replicas(loads: list[float], more: float) -> None:
    assert count_replicas([*loads, more], 1, 10**9) >= count_replicas(loads, 1, 10**9)


@given(tokens=st.integers(1, 10**6), target=st.integers(1, 10**5))
def test_it_is_the_sum_that_counts_not_who_holds_it(tokens: int, target: int) -> None:
    alone = count_replicas([tokens / target], 0, 10**9)
    assert alone == pytest.approx(math.ceil(tokens / target), abs=0)
    assert count_replicas([tokens / target / 7] * 7, 0, 10**9) == alone


@given(replicas=st.integers(1, 1000))
def test_replicas_that_are_just_full_stay_as_many_as_they_are(replicas: int) -> None:
    assert count_replicas([1 / 3] * (3 * replicas), 1, 10**6) == replicas


@given(budget=st.integers(16, 2**20), queue=st.integers(1, 2**24))
def test_the_target_is_two_batches_and_less_than_the_queue_takes(budget: int, queue: int) -> None:
    target = choose_target(budget, queue)
    assert 1 <= target <= 2 * budget
    assert target < queue or queue == 1


@pytest.mark.parametrize("metrics", [None, {}, {LOAD: {}}, {"other": {"a": 9.0}}])
def test_without_any_report_nothing_changes(metrics: dict[str, dict[str, float]] | None) -> None:
    assert follow_load(Context(metrics, target_num_replicas=5)) == (5, {})


def test_the_policy_adds_up_what_all_replicas_report() -> None:
    assert follow_load(Context({LOAD: {"a": 1.5, "b": 2.0}})) == (4, {})
    assert follow_load(Context({LOAD: {"a": 99.0}})) == (8, {})
    assert follow_load(Context({LOAD: {"a": 0.0}}, target_num_replicas=3)) == (1, {})


def test_serve_takes_the_options_and_finds_the_policy_by_its_path() -> None:
    config = pytest.importorskip("ray.serve.config", reason="needs ray[serve]")
    scaling = config.AutoscalingConfig(**make_scaling(1, 3, upscale_seconds=5, downscale_seconds=7))
    assert (scaling.policy.policy_function, scaling.look_back_period_s) == (POLICY, LOOK_BACK)
    assert scaling.policy.get_policy()(Context({LOAD: {"a": 2.5}})) == (3, {})


def test_serve_waits_for_its_delays_before_it_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy of one's own does not go round them, as those of whole applications once did."""
    module = pytest.importorskip("ray.serve.autoscaling_policy", reason="needs ray[serve]")
    config = pytest.importorskip("ray.serve.config", reason="needs ray[serve]")
    scaling = config.AutoscalingConfig(**make_scaling(1, 3, upscale_seconds=5, downscale_seconds=60))
    policy = module._apply_autoscaling_config(follow_load)
    state: dict[str, Any] = {}
    replicas, decisions = 1, []
    for now, load in [(0, 2.5), (4, 2.5), (6, 2.5), (10, 0.0), (60, 0.0), (75, 0.0)]:
        monkeypatch.setattr(module.time, "time", lambda now=now: float(now))
        context = Context({LOAD: {"a": load}}, replicas, replicas, config=scaling, policy_state=state)
        replicas, state = policy(context)
        decisions.append(replicas)
    assert decisions == [1, 1, 3, 3, 3, 1]
