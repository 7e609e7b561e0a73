"""Pods have no more rights than they need, are reached by nobody else, and go in good order."""

from __future__ import annotations

import re

import pytest

from tests.cluster.kubernetes.manifests import find_all, find_manifest
from tests.cluster.kubernetes.ray_clusters import CLUSTERS, list_groups, list_pods


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
