"""What `t5enc serve` decides before it starts, and how it watches what it started."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from serve_app.config import ServeConfig
from serve_app.deploy.running import LOST_SECONDS, WATCH_PERIOD, count_cpus, interrupts, share_threads, start_ray, watch
from t5enc.errors import ServiceError
from t5enc.machine.starting import TRIES

pytest.importorskip("ray.serve", reason="needs ray[serve]")


def test_ray_is_told_of_as_many_cpus_as_all_replicas_want() -> None:
    asked = ServeConfig.from_mapping({"model": "builtin:tiny", "replicas": "1:40", "num_cpus": 1.5})
    assert count_cpus(asked) >= 60


def test_the_cores_of_the_machine_are_shared_by_the_replicas() -> None:
    cores = os.cpu_count() or 1
    alone = share_threads(ServeConfig.from_mapping({"model": "builtin:tiny", "device": "cpu"}))
    many = share_threads(ServeConfig.from_mapping({"model": "builtin:tiny", "device": "cpu", "replicas": "1:500"}))
    told = share_threads(ServeConfig.from_mapping({"model": "builtin:tiny", "device": "cpu", "num_threads": 7}))
    assert tuple(config.encoder.num_threads for config in (alone, many, told)) == (cores, 1, 7)


def test_a_replica_elsewhere_uses_as_many_threads_as_it_was_given_cpus() -> None:
    config = ServeConfig.from_mapping({"model": "builtin:tiny", "num_cpus": 4})
    assert [options.num_threads for options in config.encoders().values()] == [4]


def test_a_ray_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    asked: list[dict[str, Any]] = []

    def give_up(**options: Any) -> None:
        asked.append(options)
        raise Exception("The current node timed out during startup.\nThis could ...")  # as Ray does

    monkeypatch.setattr(ray, "init", give_up)
    said = r"^expected a Ray of its own to start .* tries: The current node timed .* in /tmp/x/session_latest/logs$"
    with pytest.raises(ServiceError, match=said):
        start_ray(ServeConfig.from_mapping({"model": "builtin:tiny"}), "/tmp/x")
    assert len(asked) == TRIES
    assert asked[0]["_temp_dir"] == "/tmp/x"
    asked[0]["job_config"]._py_driver_sys_path.extend(["/nowhere"])  # as ray.init does with the working folder
    assert asked[0]["job_config"]._py_driver_sys_path == []


def look_at(status: str, replicas: dict[str, int], message: str = "") -> Any:
    """What Serve says of an application of one deployment."""
    from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, DeploymentStatusOverview

    deployment = DeploymentStatusOverview("UNHEALTHY", "UNSPECIFIED", replicas, message)
    return ApplicationStatusOverview(ApplicationStatus(status), message, 0.0, {"t5enc": deployment})


def watch_until(found: list[Any], ends: type[BaseException]) -> tuple[float, str]:
    """Seconds for which the application was watched, found so at each look, and how that ended."""
    looks, slept = iter(found), [0.0]

    def look() -> Any:
        return next(looks, found[-1])

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) > 1000:
            raise KeyboardInterrupt

    with pytest.raises(ends) as end:
        watch(look, sleep, lambda: sum(slept))
    return sum(slept), str(end.value)


def test_an_application_that_is_given_up_or_gone_ends_the_service() -> None:
    seconds, words = watch_until(
        [look_at("RUNNING", {"RUNNING": 1}), look_at("DEPLOY_FAILED", {}, "no GPU")], ServiceError
    )
    assert (seconds, "got DEPLOY_FAILED and no replica that answers: no GPU" in words) == (WATCH_PERIOD, True)
    seconds, words = watch_until([look_at("RUNNING", {"RUNNING": 1}), None], ServiceError)
    assert (seconds, "got none" in words) == (WATCH_PERIOD, True)


def test_an_application_without_replicas_is_waited_for_and_not_for_ever() -> None:
    dead, alive = look_at("UNHEALTHY", {"STARTING": 1}, "it crashed"), look_at("RUNNING", {"RUNNING": 1})
    before = [dead] * 100 + [alive]
    seconds, words = watch_until([*before, dead], ServiceError)
    assert seconds == WATCH_PERIOD * len(before) + LOST_SECONDS
    assert "got UNHEALTHY and no replica that answers: it crashed" in words


def test_an_application_one_of_whose_replicas_answers_is_watched_until_a_signal() -> None:
    watch_until([look_at("UNHEALTHY", {"RUNNING": 1, "STARTING": 1})], KeyboardInterrupt)


def test_a_signal_ends_the_watch_at_once() -> None:
    """Also in the middle of a sleep that would take hours."""

    def sleep(seconds: float) -> None:
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("expected the signal to interrupt")

    with interrupts(), pytest.raises(KeyboardInterrupt):
        watch(lambda: look_at("RUNNING", {"RUNNING": 1}), sleep)
