"""A Ray of a job's own: tried again where it does not start, told in a line where it never does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pipelines import EncodeJob
from pipelines.nodes import cluster, local_ray
from pipelines.nodes.cluster import _start
from pipelines.nodes.local_ray import make_job_config, start_local
from pipelines.nodes.ray_internals import NEEDLESS, starting_head
from t5enc.errors import ConfigError, DriverError
from t5enc.machine.starting import TRIES
from tests.pipelines.conftest import WriteCaptions

ray: Any = pytest.importorskip("ray", reason="needs ray[data]")
REPOSITORY = Path(__file__).resolve().parents[3]
SLOW = Exception("The current node timed out during startup. This could happen because ...\n")


class FakeHead:
    """Stands for Ray's head: what was asked of it, and how often it does not start."""

    def __init__(self, failures: int, error: Exception = SLOW) -> None:
        self.failures, self.error = failures, error
        self.asked: list[dict[str, Any]] = []
        self.shut = 0

    def init(self, **options: Any) -> None:
        self.asked.append(options)
        if len(self.asked) <= self.failures:
            raise self.error

    def shutdown(self) -> None:
        self.shut += 1


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("HOME", str(tmp_path))
    yield tmp_path
    assert os.environ.get("HOME") == str(tmp_path)


def stand_in(monkeypatch: pytest.MonkeyPatch, head: FakeHead) -> FakeHead:
    """A Ray that is the first of this process, whatever other tests have running in it."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", head.init)
    monkeypatch.setattr(ray, "shutdown", head.shutdown)
    return head


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("failures", range(TRIES))
def test_a_start_that_fails_is_tried_again_from_nothing(
    monkeypatch: pytest.MonkeyPatch, failures: int, caplog: pytest.LogCaptureFixture
) -> None:
    head = stand_in(monkeypatch, FakeHead(failures))
    start_local()
    assert (len(head.asked), head.shut) == (failures + 1, failures)
    assert caplog.text.count("Ray did not start, trying again: The current node timed out") == failures


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("error", [SLOW, RuntimeError("Failed to start GCS."), TimeoutError("after 30 seconds")])
def test_a_ray_that_never_starts_is_one_line_with_where_to_look(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    head = stand_in(monkeypatch, FakeHead(TRIES, error))
    with pytest.raises(
        DriverError, match=r"^expected a Ray of its own to start on this machine, got in each"
    ) as caught:
        _start(EncodeJob(inputs=["in"], output="out", model="m"))
    assert " ".join(str(error).split()) in str(caught.value)
    assert str(caught.value).endswith("/session_latest/logs")
    assert "\n" not in str(caught.value)
    assert len(head.asked) == TRIES


def test_a_job_leaves_no_token_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where its Ray does not start, nor where it ran: other programs that are started later inherit it."""
    for name in ("HOME", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    seen: list[str] = []
    for failures in (0, TRIES):
        head = stand_in(monkeypatch, FakeHead(failures))
        monkeypatch.setattr(head, "shutdown", lambda: seen.append(os.environ["RAY_AUTH_TOKEN"]))
        monkeypatch.setattr(ray, "shutdown", head.shutdown)
        monkeypatch.setattr(cluster, "_find_capacity", lambda _: ([], None))
        with suppress(DriverError), cluster.connect(EncodeJob(inputs=["in"], output="out", model="m")):
            seen.append(os.environ["RAY_AUTH_TOKEN"])
        assert "RAY_AUTH_TOKEN" not in os.environ
    assert len(seen) == 2 + TRIES
    assert len(set(seen)) == 1


@pytest.mark.usefixtures("home")
def test_an_interrupt_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    head = stand_in(monkeypatch, FakeHead(0))

    def interrupt(**_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ray, "init", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start_local()
    assert head.asked == []


@pytest.mark.usefixtures("home")
def test_a_long_tmpdir_and_rays_address_of_elsewhere_do_not_reach_ray(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    head = stand_in(monkeypatch, FakeHead(0))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 90)))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    start_local(num_cpus=2, _system_config={"metrics_report_interval_ms": 1000})
    (asked,) = head.asked
    assert len(asked["_temp_dir"]) < 40
    assert asked["address"] == "local"
    assert asked["num_cpus"] == 2
    assert asked["_system_config"] == {"prestart_worker_first_driver": False, "metrics_report_interval_ms": 1000}


@pytest.mark.parametrize(
    ("bound", "share", "cores"), [({3}, 64, 1), ({0, 1, 2}, 64, 3), (set(range(64)), 2, 2), (set(range(64)), 0, 1)]
)
@pytest.mark.usefixtures("home")
def test_ray_is_told_of_the_cores_that_it_may_use(
    bound: set[int], share: int, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """taskset and Slurm bind a process to some; a container's share of half a core is none in Ray's words."""
    from ray._private import utils

    head = stand_in(monkeypatch, FakeHead(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: bound, raising=False)
    monkeypatch.setattr(utils, "get_num_cpus", lambda **_: share)
    start_local()
    assert head.asked[0]["num_cpus"] == cores


@pytest.mark.parametrize(
    ("own", "kept"), [([], []), ([""], ["here"]), (["here"], ["here"]), (["there"], ["there"])], ids=str
)
def test_workers_look_for_modules_where_this_process_does(
    own: list[str], kept: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random.py or datasets/ in the working folder is not for them."""
    paths = {"": "", "here": str(tmp_path), "there": str(tmp_path / "there")}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [paths[name] for name in own])
    config = make_job_config()
    config._py_driver_sys_path.extend([paths["there"], paths["here"]])  # as ray.init does
    assert list(config._get_proto_job_config().py_driver_sys_path) == [paths[name] for name in kept]


def test_a_machine_without_a_folder_for_sockets_is_told_before_ray_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    head = stand_in(monkeypatch, FakeHead(0))

    def refuse(_: Any) -> str:
        raise ConfigError("RAY_TMPDIR: expected a folder")

    monkeypatch.setattr(local_ray, "find_folder", refuse)
    monkeypatch.setattr(local_ray, "find_token", lambda _: {})
    with pytest.raises(ConfigError, match=r"^RAY_TMPDIR"):
        start_local()
    assert head.asked == []


class HalfHead:
    """A node of Ray's that has started some of its processes when it is given up."""

    ended = 0

    def __init__(self, *_: Any, **__: Any) -> None:
        self.all_processes = {"gcs_server": [1]}
        self.removal_lock = None
        self.started = [getattr(self, name)() for name in NEEDLESS]
        raise SLOW

    def start_monitor(self) -> str:
        return "a process"

    start_log_monitor = start_api_server = start_monitor

    def kill_all_processes(self, **_: Any) -> None:
        HalfHead.ended += 1


def test_what_a_head_had_started_ends_with_it_and_needless_processes_never_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray._private import node

    begin, monitor = HalfHead.__init__, HalfHead.start_monitor
    monkeypatch.setattr(node, "Node", HalfHead)
    seen: list[Any] = []
    monkeypatch.setattr(HalfHead, "kill_all_processes", lambda head, **_: seen.append(head.started))
    with pytest.raises(Exception, match="timed out"), starting_head():
        node.Node()
    assert seen == [[None, None, None]]
    assert HalfHead.__init__ is begin
    assert HalfHead.start_monitor is monitor


def test_rays_node_has_the_processes_that_are_left_out() -> None:
    from ray._private.node import Node

    assert all(callable(getattr(Node, name)) for name in (*NEEDLESS, "kill_all_processes"))


@pytest.mark.cluster
@pytest.mark.xdist_group("ray")
def test_a_command_starts_its_ray_in_trying_circumstances(write_captions: WriteCaptions, tmp_path: Path) -> None:
    """A long TMPDIR, no home, closed streams, and a working folder whose files are named like modules."""
    captions = write_captions(["a red bird"])
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "pyarrow.py").write_text("raise ImportError('the wrong one')")
    (tmp_path / ("t" * 95)).mkdir()
    gone = ("HOME", "RAY_TMPDIR", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE")
    environ = {name: value for name, value in os.environ.items() if name not in gone}
    environ |= {"TMPDIR": str(tmp_path / ("t" * 95)), "PYTHONSAFEPATH": "1", "PYTHONPATH": str(REPOSITORY)}
    options = [str(captions), "-o", str(tmp_path / "out"), "--model", "builtin:tiny"]
    command = ["sh", "-c", 'exec "$@" <&- >&-', "sh", sys.executable, "-m", "t5enc", "encode", *options]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, env=environ, cwd=tmp_path / "there")
    assert ended.returncode == 0, ended.stderr
    assert list((tmp_path / "out").rglob("_SUCCESS"))
