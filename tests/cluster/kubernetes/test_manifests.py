"""The manifests say what their kinds know, agree with each other, with the runbook, and with the service's own file."""

from __future__ import annotations

import copy
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pipelines.job import EncodeJob
from serve_app.deploy.deploy_file import check_deploy_file
from t5enc.errors import ConfigError
from t5enc.recipes.yaml_files import read_options
from tests.cluster.kubernetes.manifests import (
    FOLDER,
    REPOSITORY,
    Document,
    ManifestError,
    check_manifest,
    find_all,
    find_manifest,
    list_manifests,
)

MANIFESTS = dict(list_manifests())
RUNBOOK = (REPOSITORY / "docs" / "cluster.md").read_text(encoding="utf-8")
JOB, SERVICE = find_manifest("RayJob", "t5enc-encode"), find_manifest("RayService", "t5enc-serve")
CLUSTERS = {"encode": JOB["spec"]["rayClusterSpec"], "serve": SERVICE["spec"]["rayClusterConfig"]}


def set_at(content: Document, path: tuple[str | int, ...], value: object) -> Document:
    """A copy with one value set; what is above it must be there."""
    changed: Any = copy.deepcopy(content)
    place = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return changed


def list_groups(component: str) -> list[Document]:
    """Head and workers of a Ray cluster."""
    return [CLUSTERS[component]["headGroupSpec"], *CLUSTERS[component]["workerGroupSpecs"]]


def list_pods(component: str) -> list[Document]:
    """Pod templates of a Ray cluster, and of what submits its job."""
    templates = [group["template"] for group in list_groups(component)]
    return [*templates, JOB["spec"]["submitterPodTemplate"]] if component == "encode" else templates


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_says_what_its_kind_knows(name: str) -> None:
    check_manifest(MANIFESTS[name])


CLUSTER = ("spec", "rayClusterSpec")
WORKER = (*CLUSTER, "workerGroupSpecs", 0)
CONTAINER = (*WORKER, "template", "spec", "containers", 0)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("kind",), "RayJobs"),
        (("apiVersion",), "ray.io/v1alpha1"),
        (("metadata", "lables"), {}),
        (("spec", "submissionMode"), 3),
        (("spec", "backoffLimits"), 2),
        (("spec", "backoffLimit"), "two"),
        (("spec", "shutdownAfterJobFinish"), True),
        ((*CLUSTER, "rayversion"), "2.60.0"),
        ((*CLUSTER, "authOptions", "mode"), "tokens"),
        ((*CLUSTER, "autoscalerOptions", "version"), "v3"),
        ((*CLUSTER, "autoscalerOptions", "idleTimeoutSecond"), 60),
        ((*CLUSTER, "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        ((*WORKER, "maxReplica"), 8),
        ((*WORKER, "groupName"), None),
        ((*CONTAINER, "imagePullPolice"), "Always"),
        ((*CONTAINER, "envFrom", 0, "secretRef", "secretName"), "t5enc-s3"),
        ((*CONTAINER, "resources", "limit"), {}),
        ((*CONTAINER, "livenessProbe", "httpGet", "prot"), 8),
        ((*CONTAINER, "securityContext", "runAsNonroot"), True),
        ((*WORKER, "template", "spec", "terminationGracePeriod"), 9),
        ((*WORKER, "template", "spec", "volumes", 0, "persistentVolumeClaim", "claim"), "t5enc-cache"),
    ],
)
def test_a_typing_mistake_in_the_job_is_refused(path: tuple[str | int, ...], value: object) -> None:
    with pytest.raises(ManifestError):
        check_manifest(set_at(JOB, path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "serveConfigV3"), ""),
        (("spec", "serveConfigV2"), {"applications": []}),
        (("spec", "upgradeStrategy", "kind"), "NewCluster"),
        (("spec", "rayClusterConfig", "gcsFaultToleranceOptions", "redisAdress"), "a:6379"),
        (("spec", "rayClusterConfig", "gcsFaultToleranceOptions", "redisPassword", "valueFrom", "secretRef"), {}),
    ],
)
def test_a_typing_mistake_in_the_service_is_refused(path: tuple[str | int, ...], value: object) -> None:
    with pytest.raises(ManifestError):
        check_manifest(set_at(SERVICE, path, value))


@pytest.mark.parametrize(
    ("kind", "name", "path", "value"),
    [
        ("ConfigMap", "t5enc-encode", ("datas",), {}),
        ("PersistentVolumeClaim", "t5enc-cache", ("spec", "accessMode"), ["ReadWriteMany"]),
        ("NetworkPolicy", "t5enc-serve", ("spec", "ingress", 0, "form"), []),
        ("NetworkPolicy", "t5enc-serve", ("spec", "podSelector", "matchLabel"), {}),
        ("StatefulSet", "t5enc-redis", ("spec", "template", "spec", "containers", 0, "volumeMount"), []),
        ("Service", "t5enc-redis", ("spec", "ports", 0, "port"), "redis"),
    ],
)
def test_a_typing_mistake_in_a_kind_of_kubernetes_is_refused(
    kind: str, name: str, path: tuple[str | int, ...], value: object
) -> None:
    with pytest.raises(ManifestError):
        check_manifest(set_at(find_manifest(kind, name), path, value))


def test_what_the_api_server_fills_in_may_be_left_out() -> None:
    sparing = copy.deepcopy(JOB)
    for group in sparing["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        del group["minReplicas"], group["maxReplicas"]
    check_manifest(sparing)


def test_the_job_in_the_config_map_is_one_that_the_command_takes(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(find_manifest("ConfigMap", "t5enc-encode")["data"]["job.yaml"])
    job = EncodeJob.from_mapping(read_options(tmp_path / "job.yaml"))
    groups = CLUSTERS["encode"]["workerGroupSpecs"]
    assert job.actor_range() == (
        sum(group["minReplicas"] for group in groups),
        sum(group["maxReplicas"] for group in groups),
    )


def test_the_command_of_the_job_reads_the_file_of_the_config_map() -> None:
    head = CLUSTERS["encode"]["headGroupSpec"]["template"]["spec"]
    (mount,) = (mount for mount in head["containers"][0]["volumeMounts"] if mount["name"] == "job")
    script = find_manifest("ConfigMap", "t5enc-encode")["data"]["encode.sh"]
    assert JOB["spec"]["entrypoint"] == f"sh {mount['mountPath']}/encode.sh"
    (command,) = re.findall(r"^t5enc (.*)$", script, re.MULTILINE)
    options = ["--config", f"{mount['mountPath']}/job.yaml", "--ray-address", "auto", "--resume"]
    assert shlex.split(command) == ["encode", *options]


@pytest.mark.parametrize(("ended", "told"), [(0, 0), (1, 1), (2, 2), (3, 0), (4, 4), (5, 5)])
def test_captions_that_killed_the_encoder_are_no_failure_of_the_job(ended: int, told: int, tmp_path: Path) -> None:
    (tmp_path / "t5enc").write_text(f"#!/bin/sh\nexit {ended}\n")
    (tmp_path / "t5enc").chmod(0o700)
    script = find_manifest("ConfigMap", "t5enc-encode")["data"]["encode.sh"]
    done = subprocess.run(["sh", "-c", script], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    assert done.returncode == told


def test_the_service_is_what_the_command_of_the_runbook_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as it stands, but for where the keys lie."""
    from t5enc.cli import build_app

    (command,) = re.findall(r"^t5enc (serve .*--write-deploy-file -)$", RUNBOOK, re.MULTILINE)
    mounted = yaml.safe_load(SERVICE["spec"]["serveConfigV2"])
    keys = tmp_path / "keys"
    keys.write_text("test-key-0123456789abcdef")
    monkeypatch.chdir(REPOSITORY)
    ended = CliRunner().invoke(build_app(), [*shlex.split(command), "--keys-file", str(keys)])
    assert ended.exit_code == 0, ended.output
    path = mounted["applications"][0]["args"]["keys_file"]
    assert path == read_options(FOLDER / "serve-options.yaml")["keys_file"]
    assert yaml.safe_load(ended.output.replace(str(keys), path)) == mounted


def test_serve_knows_every_name_in_the_service() -> None:
    content = yaml.safe_load(SERVICE["spec"]["serveConfigV2"])
    check_deploy_file(content)
    application = content["applications"][0] | {"deployments": [{"name": "t5enc", "max_ongoing_request": 1}]}
    with pytest.raises(ConfigError, match="max_ongoing_request: no such option"):
        check_deploy_file(content | {"applications": [application]})


def test_a_replica_has_a_card_for_each_worker_that_may_be() -> None:
    args = yaml.safe_load(SERVICE["spec"]["serveConfigV2"])["applications"][0]["args"]
    groups = CLUSTERS["serve"]["workerGroupSpecs"]
    bounds = [sum(group[name] for group in groups) for name in ("minReplicas", "maxReplicas")]
    assert args["replicas"] == f"{bounds[0]}:{bounds[1]}"
    assert {int(limits["nvidia.com/gpu"]) for limits in find_all(groups, "limits")} == {int(args["num_gpus"])}


def test_keys_lie_where_the_service_looks_for_them() -> None:
    args = yaml.safe_load(SERVICE["spec"]["serveConfigV2"])["applications"][0]["args"]
    for pod in list_pods("serve"):
        (mount,) = (mount for mount in pod["spec"]["containers"][0]["volumeMounts"] if mount["name"] == "keys")
        assert str(Path(args["keys_file"]).parent) == mount["mountPath"]


def test_one_image_is_named_everywhere_and_the_runbook_builds_it() -> None:
    (image,) = re.findall(r"^ *IMAGE=(\S+)$", RUNBOOK, re.MULTILINE)
    found = {name for component in CLUSTERS for pod in list_pods(component) for name in find_all(pod, "image")}
    launcher = yaml.safe_load((FOLDER / "launcher-aws.yaml").read_text(encoding="utf-8"))
    assert found | {launcher["docker"]["image"]} == {image}


def test_ray_in_the_manifests_is_the_one_that_the_image_has() -> None:
    pins = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    (version,) = re.findall(r"^ray==(\S+)$", pins, re.MULTILINE)
    assert {cluster["rayVersion"] for cluster in CLUSTERS.values()} == {version}


def test_what_the_pods_refer_to_is_there_or_made_by_the_runbook() -> None:
    pods = [pod for component in CLUSTERS for pod in list_pods(component)]
    pods += [find_manifest("StatefulSet", "t5enc-redis")["spec"]["template"]]
    claims = {doc["metadata"]["name"] for doc in MANIFESTS.values() if doc["kind"] == "PersistentVolumeClaim"}
    maps = {doc["metadata"]["name"] for doc in MANIFESTS.values() if doc["kind"] == "ConfigMap"}
    secrets = set(re.findall(r"kubectl create secret generic (\S+)", RUNBOOK))
    assert set(find_all(pods, "claimName")) <= claims
    assert {source["name"] for source in find_all(pods, "configMap")} <= maps
    named = set(find_all(pods, "secretName"))
    named |= {source["name"] for name in ("secretRef", "secretKeyRef") for source in find_all([pods, SERVICE], name)}
    assert named <= secrets


@pytest.mark.parametrize("component", CLUSTERS)
def test_nobody_is_root_and_nothing_gets_more_rights(component: str) -> None:
    for pod in list_pods(component):
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("component", CLUSTERS)
def test_the_head_computes_nothing_and_every_call_needs_a_token(component: str) -> None:
    cluster = CLUSTERS[component]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["autoscalerOptions"]["version"] == "v2"


@pytest.mark.parametrize("component", CLUSTERS)
def test_a_worker_that_goes_has_time_to_drain(component: str) -> None:
    for group in CLUSTERS[component]["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        command = container["lifecycle"]["preStop"]["exec"]["command"][-1]
        seconds = [int(number) for number in re.findall(r"(?:seconds|SECONDS <) (\d+)", command)]
        assert len(seconds) == 2
        assert max(seconds) < group["template"]["spec"]["terminationGracePeriodSeconds"]


def test_nobody_moves_what_a_run_or_the_service_hangs_on() -> None:
    protected = [find_manifest("StatefulSet", "t5enc-redis")["spec"]["template"]]
    for component in CLUSTERS:
        steady = [group for group in list_groups(component) if group.get("groupName") != "spot"]
        pods = [group["template"] for group in steady]
        assert {pod["spec"]["nodeSelector"]["karpenter.sh/capacity-type"] for pod in pods} == {"on-demand"}
        assert len(pods) == 2
        protected += pods
    for pod in protected:
        assert pod["metadata"]["annotations"] == {
            "karpenter.sh/do-not-disrupt": "true",
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        }


def test_haproxy_is_asked_for_on_the_head_and_on_all_workers() -> None:
    for pod in list_pods("serve"):
        assert {"name": "RAY_SERVE_ENABLE_HA_PROXY", "value": "1"} in pod["spec"]["containers"][0]["env"]


@pytest.mark.parametrize("component", CLUSTERS)
def test_a_policy_selects_the_pods_of_a_cluster_and_names_ports_that_they_have(component: str) -> None:
    policy = find_manifest("NetworkPolicy", f"t5enc-{component}")["spec"]
    pods = list_pods(component)
    for pod in pods:
        assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert policy["ingress"][0] == {"from": [{"podSelector": policy["podSelector"]}]}
    ports = {port["containerPort"] for found in find_all(pods, "ports") for port in found}
    opened = {port["port"] for rule in policy["ingress"][1:] for port in rule["ports"]}
    assert opened == {8265, 8080} | ({8000} if component == "serve" else set())
    assert opened <= ports


def test_only_clients_and_the_operator_reach_the_service() -> None:
    rules = find_manifest("NetworkPolicy", "t5enc-serve")["spec"]["ingress"][1:]
    sources = [rule["from"] for rule in rules if {"protocol": "TCP", "port": 8000} in rule["ports"]]
    names = {str(find_all(source, "podSelector")) for source in sources}
    assert names == {
        "[{'matchLabels': {'app.kubernetes.io/name': 'kuberay-operator'}}]",
        "[{'matchLabels': {'t5enc/client': 'true'}}]",
    }


def test_a_retried_job_finds_what_the_one_before_it_did() -> None:
    job = yaml.safe_load(find_manifest("ConfigMap", "t5enc-encode")["data"]["job.yaml"])
    assert job["output"].startswith("s3://")
    assert not job.get("overwrite")
    assert JOB["spec"]["backoffLimit"] > 0
    assert JOB["spec"]["shutdownAfterJobFinishes"] is True
