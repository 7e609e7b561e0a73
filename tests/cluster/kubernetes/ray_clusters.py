"""The two Ray clusters of the manifests, the job's and the service's: their groups and their pods."""

from __future__ import annotations

from tests.cluster.kubernetes.manifests import Document, find_manifest

JOB, SERVICE = find_manifest("RayJob", "t5enc-encode"), find_manifest("RayService", "t5enc-serve")
CLUSTERS = {"encode": JOB["spec"]["rayClusterSpec"], "serve": SERVICE["spec"]["rayClusterConfig"]}


def list_groups(component: str) -> list[Document]:
    """Head and workers of a Ray cluster."""
    return [CLUSTERS[component]["headGroupSpec"], *CLUSTERS[component]["workerGroupSpecs"]]


def list_pods(component: str) -> list[Document]:
    """Pod templates of a Ray cluster, and of what submits its job."""
    templates = [group["template"] for group in list_groups(component)]
    return [*templates, JOB["spec"]["submitterPodTemplate"]] if component == "encode" else templates
