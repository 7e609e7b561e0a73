"""The manifests say what their kinds know, and a typing mistake in any of them is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.cluster.kubernetes.manifests import MANIFESTS, Document, ManifestError, check_manifest, find_manifest
from tests.cluster.kubernetes.ray_clusters import JOB, SERVICE


def set_at(content: Document, path: tuple[str | int, ...], value: object) -> Document:
    """A copy with one value set; what is above it must be there."""
    changed: Any = copy.deepcopy(content)
    place = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return changed


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
