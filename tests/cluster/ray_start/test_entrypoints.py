"""What the manifests start is started: the job's command, the service's application, the probes and the drain."""

from __future__ import annotations

import copy
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from serve_app.deploy.haproxy import find_ports
from t5enc import TextEncoder, load_embeddings
from tests.cluster.kubernetes.manifests import find_all, find_manifest
from tests.cluster.patience import wait_until
from tests.cluster.ray_start.ray_cluster import BIN, RayCluster, running_cluster

pytest.importorskip("ray.serve", reason="needs ray[data,serve]")
pytestmark = pytest.mark.cluster

JOB, SERVICE = find_manifest("RayJob", "t5enc-encode"), find_manifest("RayService", "t5enc-serve")
TEXTS = [f"a photo of {number} birds" for number in range(40)]
KEY = "test-key-0123456789abcdef"


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A head and a worker."""
    with running_cluster() as started:
        started.add_worker(cpus=2)
        yield started


def test_the_command_of_the_job_encodes_what_its_config_map_names(cluster: RayCluster) -> None:
    """As KubeRay hands it in; only places, model and device are others."""
    folder = cluster.folder
    pq.write_table(pa.table({"caption": TEXTS}), folder / "captions.parquet")
    job = yaml.safe_load(find_manifest("ConfigMap", "t5enc-encode")["data"]["job.yaml"])
    places = {"inputs": [f"{folder}/captions.parquet"], "output": f"{folder}/out", "compile-cache": f"{folder}/cache"}
    here = places | {"model": "builtin:tiny", "device": "cpu", "dtype": "float32"}
    assert set(here) <= set(job)
    (folder / "job.yaml").write_text(yaml.safe_dump(job | here))
    script = find_manifest("ConfigMap", "t5enc-encode")["data"]["encode.sh"]
    (folder / "encode.sh").write_text(script.replace("/etc/t5enc", str(folder)))
    command = shlex.split(JOB["spec"]["entrypoint"].replace("/etc/t5enc", str(folder)))
    cluster.run(
        "ray", "job", "submit", "--address", cluster.dashboard, "--submission-id", "t5enc-encode", "--", *command
    )
    table, embeddings = load_embeddings(str(folder / "out"))
    assert table["caption"].to_pylist() == TEXTS
    expected = TextEncoder.from_pretrained("builtin:tiny").encode(TEXTS)
    assert (embeddings.values.float() - expected.values).abs().max() < 2e-3


def test_the_service_answers_those_who_have_a_key(cluster: RayCluster) -> None:
    """As KubeRay hands it in; only places, model and device are others."""
    (port,) = find_ports(1)
    (cluster.folder / "keys").write_text(KEY)
    (cluster.folder / "serve.yaml").write_text(yaml.safe_dump(place_service(cluster.folder, port)))
    cluster.run("serve", "deploy", "--address", cluster.dashboard, "serve.yaml")
    wait_until(lambda: cluster.get(port, "/health") == 200, "no replica")
    body, url = {"inputs": ["a cat"]}, f"http://127.0.0.1:{port}/embed"
    assert httpx2.post(url, json=body, timeout=60).status_code == 401
    answer = httpx2.post(url, json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)
    expected = TextEncoder.from_pretrained("builtin:tiny").encode(["a cat"]).pooled("mean", normalize=True)
    assert answer.json()[0] == pytest.approx(expected[0].tolist(), abs=1e-5)
    for worker in SERVICE["spec"]["rayClusterConfig"]["workerGroupSpecs"]:
        probe = worker["template"]["spec"]["containers"][0]["readinessProbe"]["httpGet"]
        assert cluster.get(port, probe["path"]) == 200


def place_service(folder: Path, port: int) -> dict[str, Any]:
    """The service's file for this machine."""
    content = copy.deepcopy(yaml.safe_load(SERVICE["spec"]["serveConfigV2"]))
    content["http_options"]["port"] = port
    args = content["applications"][0]["args"]
    here = {"model": "builtin:tiny", "dtype": "float32", "num_gpus": 0.0}
    here |= {"keys_file": f"{folder}/keys", "compile_cache": f"{folder}/cache"}
    assert set(here) <= set(args)
    args |= here
    return content


def test_probes_are_answered_without_a_token_and_nothing_else_is(cluster: RayCluster) -> None:
    probes = [probe for name in ("livenessProbe", "readinessProbe") for probe in find_all([JOB, SERVICE], name)]
    paths = {probe["httpGet"]["path"] for probe in probes if probe["httpGet"]["port"] == 52365}
    assert paths == {"/api/healthz"}
    assert cluster.get(cluster.agent_port, "/api/healthz", cluster.host) == 200
    assert cluster.get(cluster.dashboard_port, "/api/jobs/") == 401


def test_a_pod_that_goes_waits_until_nothing_runs_there_and_no_longer(cluster: RayCluster) -> None:
    """The hook as it stands, with programs that see what a pod would see: its own node, and its own processes."""
    nodes, raylets = list_node_ids(cluster), set(cluster.list_raylets())
    cluster.add_worker(cpus=0)
    (node,) = list_node_ids(cluster) - nodes
    (raylet,) = set(cluster.list_raylets()) - raylets
    hooks = find_all([JOB, SERVICE], "preStop")
    (command,) = {tuple(hook["exec"]["command"]) for hook in hooks}
    slept = cluster.folder / "slept"
    slept.touch()
    cluster.replace("ray", f'exec {BIN}/ray "$@" --node-id {node}')
    cluster.replace("grep", f'exec /usr/bin/grep "$1" "$2" /proc/{raylet.pid}/comm 2>/dev/null')
    cluster.replace("sleep", f'echo "$@" >> {slept}; exec /bin/sleep "$@"')
    cluster.run(*command, path=cluster.folder / "bin")
    assert not raylet.is_running()
    wait_until(lambda: node not in list_node_ids(cluster), "it is still there")
    assert sum(map(int, slept.read_text().split())) < 100


def list_node_ids(cluster: RayCluster) -> set[str]:
    """Nodes that are alive."""
    said = cluster.run("ray", "list", "nodes", "--format", "json", "--address", cluster.dashboard)
    return {node["node_id"] for node in json.loads(said) if node["state"] == "ALIVE"}
