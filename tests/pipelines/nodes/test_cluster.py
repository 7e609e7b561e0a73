"""What a cluster's nodes give to a job's actors, without a cluster; and that Ray takes it as it is told."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines import EncodeJob, encode_parquet
from pipelines.nodes.cluster import _find_capacity, _start, check_joined, find_address, list_packages
from pipelines.nodes.selectors import Node
from pipelines.nodes.shares import Cluster, list_least, share_out
from t5enc.errors import ConfigError, DriverError
from tests.pipelines.conftest import WriteCaptions


def node(labels: dict[str, str] | None = None, **resources: float) -> Node:
    return Node(id="n", address="10.0.0.1", resources=resources, labels=labels or {})


def make_job(**options: Any) -> EncodeJob:
    return EncodeJob(inputs=["in"], output="out", model="builtin:tiny", ray_address="auto", **options)


def share(nodes: Sequence[Node], **options: Any) -> Cluster:
    return share_out(make_job(**options), nodes, is_local=False)


CARDS = [node(CPU=8, GPU=4), node(CPU=8, GPU=4), node(CPU=16)]


def test_a_cluster_with_cards_gets_an_actor_a_card_and_all_start_at_once() -> None:
    cluster = share(CARDS)
    assert (cluster.device, cluster.actors, cluster.warm) == ("cuda", (1, 8), 8)
    assert cluster.actor_options() == {"num_cpus": 1, "num_gpus": 1.0}


def test_a_range_of_actors_starts_with_the_fewest() -> None:
    cluster = share(CARDS, actors="2:6", gpus_per_actor=0.5, cpus_per_actor=2)
    assert (cluster.actors, cluster.warm) == ((2, 6), 2)
    assert cluster.actor_options() == {"num_cpus": 2, "num_gpus": 0.5}


def test_a_cluster_without_cards_gets_an_actor_a_node_that_has_its_cores() -> None:
    cluster = share([node(CPU=4), node(CPU=4), node(CPU=0)])
    assert (cluster.device, cluster.actors, cluster.cpus_per_actor) == ("cpu", (1, 2), 4)
    assert cluster.threads_per_actor == 4


@pytest.mark.parametrize(("actors", "cpus"), [("2", 4), ("4", 2), ("3", 2), ("1:8", 1), ("30", 1)])
def test_actors_on_cpus_get_as_much_as_lets_all_of_them_fit(actors: str, cpus: int) -> None:
    assert share([node(CPU=4), node(CPU=4)], actors=actors).cpus_per_actor == cpus


def test_resources_of_a_name_count_as_cards_do() -> None:
    nodes = [node(CPU=2, slot=1), node(CPU=2, slot=2), node(CPU=64)]
    cluster = share(nodes, device="cpu", resources={"slot": 1}, cpus_per_actor=1)
    assert cluster.actors == (1, 3)
    assert cluster.actor_options() == {"num_cpus": 1, "resources": {"slot": 1}}


def test_labels_and_types_of_cards_choose_nodes() -> None:
    cards = [node({"zone": "a"}, CPU=8, GPU=2, **{"accelerator_type:L4": 1}), node({"zone": "b"}, CPU=8, GPU=8)]
    cluster = share(cards, label_selector={"zone": "a"})
    assert (cluster.actors[1], cluster.actor_options()["label_selector"]) == (2, {"zone": "a"})
    cluster = share(cards, accelerator_type="L4")
    assert (cluster.actors[1], cluster.actor_options()["accelerator_type"]) == (2, "L4")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"label_selector": {"zone": "c"}}, r"CPU 1, GPU 1, zone=c each, got room for 0 on 3 node\(s\): 10.0.0.1 \("),
        ({"accelerator_type": "H100"}, "accelerator_type:H100 0.001"),
        ({"resources": {"slot": 2}}, "slot 2 each"),
        ({"gpus_per_actor": 8}, "GPU 8 each"),
        ({"device": "cpu", "cpus_per_actor": 32}, "CPU 32"),
    ],
)
def test_what_no_node_has_is_said_beside_what_they_have(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^actors: expected room for 1 that take .*{said}"):
        share(CARDS, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": "cuda"}, "device: expected GPUs in the Ray cluster, got 'cuda'"),
        ({"gpus_per_actor": 0.5}, "gpus_per_actor: expected GPUs in the Ray cluster, got 0.5"),
        ({"accelerator_type": "L4"}, "accelerator_type: expected GPUs in the Ray cluster, got 'L4'"),
    ],
)
def test_cards_are_never_replaced_by_cpus_where_they_were_asked_for(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said} and none are there"):
        share([node(CPU=4)], **options)
    (least,) = list_least(make_job(**options), [node(CPU=4)])
    assert least.resources["GPU"] == options.get("gpus_per_actor", 1)
    assert "GPU" not in list_least(make_job(**options | {"device": "cpu"}), [node(CPU=4)])[0].resources


def test_the_least_that_a_job_needs_is_an_encoder_and_a_tokenizer_if_it_has_some() -> None:
    asked = {"label_selector": {"zone": "a"}, "cpus_per_actor": 3, "tokenizers": 4, "actors": "5:9"}
    assert [str(least) for least in list_least(make_job(**asked), [])] == ["CPU 3, zone=a", "CPU 1"]


@pytest.mark.parametrize(
    ("there", "options"),
    [
        ([node(CPU=1)], {"device": "cpu", "tokenizers": 1}),
        ([node(CPU=1, GPU=1)], {"tokenizers": 2}),
        ([node(CPU=8, GPU=8)], {"tokenizers": 4}),
    ],
)
def test_room_that_a_node_seems_to_have_is_counted_again_after_waiting(
    there: list[Node], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray would place one encoder, and starve the other kind of actor."""
    monkeypatch.setattr("pipelines.nodes.cluster.list_nodes", lambda: there)
    monkeypatch.setattr("pipelines.nodes.cluster.await_capacity", lambda needs: None)
    with pytest.raises(ConfigError, match="tokenizers"):
        _find_capacity(make_job(**options))


def test_nodes_that_came_are_used_and_others_end_with_what_the_autoscaler_says(monkeypatch: pytest.MonkeyPatch) -> None:
    there: list[Node] = []
    monkeypatch.setattr("pipelines.nodes.cluster.list_nodes", lambda: list(there))
    monkeypatch.setattr("pipelines.nodes.cluster.await_capacity", lambda needs: there.append(node(CPU=4, GPU=2)))
    _, cluster = _find_capacity(make_job(device="cuda", actors="8:64"))
    assert (cluster.actors, cluster.warm) == ((2, 64), 2)
    there.clear()
    monkeypatch.setattr("pipelines.nodes.cluster.await_capacity", lambda needs: "no autoscaler is starting a node")
    with pytest.raises(ConfigError, match=r"room for 0 on 0 node\(s\): none; no autoscaler is starting a node$"):
        _find_capacity(make_job(device="cpu"))


def test_a_cluster_with_less_room_than_before_is_used_as_it_is() -> None:
    """The same command resumes on whatever is left; on one's own machine more is a mistake."""
    cluster = share(CARDS[:1], actors="6:9")
    assert (cluster.actors, cluster.warm) == ((4, 9), 4)
    job = EncodeJob(inputs=["in"], output="out", model="m", device="cpu", actors=3, cpus_per_actor=2)
    with pytest.raises(ConfigError, match=r"^actors: expected room for 3 that take CPU 2.* got room for 2"):
        share_out(job, [node(CPU=4)], is_local=True)


def test_ones_own_machine_gives_all_its_cores_to_one_actor() -> None:
    job = EncodeJob(inputs=["in"], output="out", model="m")
    cluster = share_out(job, [node(CPU=6)], is_local=True)
    assert (cluster.actors, cluster.cpus_per_actor) == ((1, 1), 6)


def join(monkeypatch: pytest.MonkeyPatch, error: Exception, address: str = "auto") -> None:
    """Try to join a cluster that answers, and whose Ray says this."""
    ray: Any = pytest.importorskip("ray", reason="needs ray[data]")

    def refuse(**_: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr("pipelines.nodes.cluster.knock", lambda _: None)
    monkeypatch.setattr("pipelines.nodes.cluster.find_cluster", lambda: "10.0.0.1:6379")
    _start(EncodeJob(inputs=["in"], output="out", model="m", ray_address=address))


@pytest.mark.parametrize("has_token", [True, False])
def test_a_cluster_that_wants_a_token_is_told_apart_from_one_that_is_not_there(
    has_token: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that refuses may be in trouble, and let the same command in later; without any token it never does."""
    ray: Any = pytest.importorskip("ray", reason="needs ray[data]")
    none = ray.exceptions.AuthenticationError("no authentication token was found")
    error, kind = (ConnectionError("Failed to connect"), DriverError) if has_token else (none, ConfigError)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    said = r"to let this process in, got: .*If it wants a token, set RAY_AUTH_MODE=token \(here disabled\)"
    with pytest.raises(kind, match=said):
        join(monkeypatch, error)


@pytest.mark.parametrize(
    ("said", "kind"),
    [("Version mismatch: The cluster was started with:\n  Ray: 2.1", ConfigError), ("no luck", DriverError)],
)
def test_a_cluster_of_another_version_stays_one_however_often_it_is_tried(
    said: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    match = f"^ray_address: expected the Ray cluster at 10.0.0.2:6379 to answer, got: {said.split()[0]}"
    with pytest.raises(kind, match=match) as caught:
        join(monkeypatch, RuntimeError(said), "10.0.0.2:6379")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({"RAY_ADDRESS": "10.0.0.2:6379"}, ("10.0.0.2:6379", "RAY_ADDRESS, for ray_address auto")),
        ({"RAY_ADDRESS": " 10.0.0.2:6379 "}, ("10.0.0.2:6379", "RAY_ADDRESS, for ray_address auto")),
        ({"RAY_ADDRESS": "auto"}, ("10.0.0.1:6379", "ray_address: auto")),
        ({"RAY_ADDRESS": ""}, ("10.0.0.1:6379", "ray_address: auto")),
        ({}, ("10.0.0.1:6379", "ray_address: auto")),
    ],
)
def test_who_named_the_cluster_is_known(
    environ: dict[str, str], found: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.nodes.cluster.find_cluster", lambda: "10.0.0.1:6379")
    assert find_address("auto", environ) == found
    assert find_address("10.0.0.9:1", environ) == ("10.0.0.9:1", "ray_address")


def test_no_cluster_at_all_is_told_without_a_word_about_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.nodes.cluster.find_cluster", lambda: None)
    with pytest.raises(DriverError, match=r"^ray_address: expected a Ray cluster that runs on this machine, got none;"):
        find_address("auto", {})


@pytest.mark.parametrize("address", ["local", "ray://10.0.0.1:10001", "10.0.0.1", "10.0.0.1:x", ":6379"])
def test_an_address_of_the_environment_that_is_none_is_named(address: str) -> None:
    with pytest.raises(ConfigError, match=r"^RAY_ADDRESS, for ray_address auto: expected auto or HOST:PORT"):
        find_address("auto", {"RAY_ADDRESS": address})


def test_a_cluster_that_is_gone_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself waits for minutes."""
    ray: Any = pytest.importorskip("ray", reason="needs ray[data]")
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was asked"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    said = f"^RAY_ADDRESS, for ray_address auto: expected the Ray cluster at {address} to answer, got: .*refused"
    with pytest.raises(DriverError, match=said):
        _start(EncodeJob(inputs=["in"], output="out", model="m", ray_address="auto"))


def test_the_packages_that_are_shipped_are_those_that_run_here() -> None:
    assert [Path(folder).name for folder in list_packages()] == ["t5enc", "pipelines"]
    assert all(Path(folder, "__init__.py").is_file() for folder in list_packages())


@pytest.mark.parametrize("address", [None, "auto", "127.0.0.1:6379", "localhost:6379"])
def test_the_ray_that_this_process_has_joined_is_used(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    ray: Any = pytest.importorskip("ray", reason="needs ray[data]")
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.1")
    check_joined(EncodeJob(inputs=["in"], output="out", model="m", ray_address=address), "10.0.0.1:6379")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ray_address": "10.0.0.2:6379"}, r"^ray_address: .* joined already, 10.0.0.1:6379, got 10.0.0.2:6379"),
        ({"ray_address": "10.0.0.1:6380"}, r"^ray_address: .* got 10.0.0.1:6380"),
        ({"ray_address": "auto", "ship_code": True}, r"^ship_code: expected a process that has not joined Ray yet"),
    ],
)
def test_what_a_ray_that_was_joined_before_cannot_be_is_refused(options: dict[str, Any], said: str) -> None:
    pytest.importorskip("ray", reason="needs ray[data]")
    with pytest.raises(ConfigError, match=said):
        check_joined(EncodeJob(inputs=["in"], output="out", model="m", **options), "10.0.0.1:6379")


@pytest.mark.usefixtures("local_ray")
def test_a_job_that_asks_for_what_ray_has_not_says_so(write_captions: WriteCaptions, tmp_path: Path) -> None:
    job = EncodeJob(
        inputs=[str(write_captions(["a red bird"]))],
        output=str(tmp_path / "out"),
        model="builtin:tiny",
        resources={"slot": 1},
    )
    with pytest.raises(ConfigError, match=r"slot 1 each, got room for 0 on 1 node\(s\): .*CPU 2"):
        encode_parquet(job)
    assert not (tmp_path / "out").exists()
