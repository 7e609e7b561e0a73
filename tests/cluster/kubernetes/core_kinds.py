"""Schemas of the few kinds of Kubernetes itself that cluster/ uses, from what KubeRay's CRD of a Ray cluster embeds.

The CRD holds pod templates, a Service, claims of volumes and rules of network policies, as Kubernetes defines them.
What it does not hold is written down here, for the fields that are used.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
# What people write of an object's metadata.
METADATA: Schema = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
    "properties": {
        "name": {"type": "string"},
        "namespace": {"type": "string"},
        "labels": TEXTS,
        "annotations": TEXTS,
    },
}


def make_kind(version: str, kind: str, fields: Schema) -> Schema:
    """A whole object: these fields, version, kind and metadata must be there, and nothing else may."""
    properties = {"apiVersion": {"const": version}, "kind": {"const": kind}, "metadata": METADATA}
    return make_object(properties | fields, [*properties, *fields])


def make_object(properties: Schema, required: list[str]) -> Schema:
    """An object with these properties and no others."""
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": required}


def derive_core_kinds(cluster: Schema) -> dict[str, Schema]:
    """Kinds by name, from the tightened `spec` of a RayCluster."""
    head = cluster["properties"]["headGroupSpec"]["properties"]
    pod = head["template"]
    volume = pod["properties"]["spec"]["properties"]["volumes"]["items"]["properties"]
    claim = volume["ephemeral"]["properties"]["volumeClaimTemplate"]
    rules = cluster["properties"]["networkPolicy"]["properties"]["head"]["properties"]
    return {
        "ConfigMap": make_kind("v1", "ConfigMap", {"data": TEXTS}),
        "PersistentVolumeClaim": make_kind("v1", "PersistentVolumeClaim", {"spec": claim["properties"]["spec"]}),
        "Service": make_kind("v1", "Service", {"spec": head["headService"]["properties"]["spec"]}),
        "NetworkPolicy": make_kind("networking.k8s.io/v1", "NetworkPolicy", {"spec": make_policy(rules)}),
        "StatefulSet": make_kind("apps/v1", "StatefulSet", {"spec": make_stateful_set(pod, claim, rules)}),
        "PodMonitor": make_kind("monitoring.coreos.com/v1", "PodMonitor", {"spec": make_monitor(rules)}),
    }


def find_selector(rules: Schema) -> Schema:
    """A selector of labels, as rules of a policy have it."""
    found: Schema = rules["ingressRules"]["items"]["properties"]["from"]["items"]["properties"]["podSelector"]
    return found


def make_policy(rules: Schema) -> Schema:
    """The spec of a NetworkPolicy."""
    kinds = {"type": "array", "items": {"enum": ["Ingress", "Egress"]}}
    fields = {"podSelector": find_selector(rules), "policyTypes": kinds}
    return make_object(fields | {"ingress": rules["ingressRules"], "egress": rules["egressRules"]}, ["podSelector"])


def make_stateful_set(pod: Schema, claim: Schema, rules: Schema) -> Schema:
    """The spec of a StatefulSet."""
    fields = {
        "serviceName": {"type": "string"},
        "replicas": {"type": "integer"},
        "selector": find_selector(rules),
        "template": pod,
        "volumeClaimTemplates": {"type": "array", "items": claim},
    }
    return make_object(fields, ["selector", "serviceName", "template"])


def make_monitor(rules: Schema) -> Schema:
    """The spec of the Prometheus operator's PodMonitor, for the fields that are used: it is none of Kubernetes' own."""
    relabeling = make_object(
        {
            "sourceLabels": {"type": "array", "items": {"type": "string"}},
            "targetLabel": {"type": "string"},
            "regex": {"type": "string"},
            "replacement": {"type": "string"},
            "action": {"enum": ["replace", "keep", "drop", "labelmap", "labeldrop", "labelkeep"]},
        },
        [],
    )
    endpoint = make_object(
        {
            "port": {"type": "string"},
            "path": {"type": "string"},
            "interval": {"type": "string"},
            "scrapeTimeout": {"type": "string"},
            "honorLabels": {"type": "boolean"},
            "relabelings": {"type": "array", "items": relabeling},
            "metricRelabelings": {"type": "array", "items": relabeling},
        },
        ["port"],
    )
    fields = {
        "selector": find_selector(rules),
        "namespaceSelector": make_object(
            {"matchNames": {"type": "array", "items": {"type": "string"}}, "any": {"type": "boolean"}}, []
        ),
        "jobLabel": {"type": "string"},
        "podTargetLabels": {"type": "array", "items": {"type": "string"}},
        "podMetricsEndpoints": {"type": "array", "items": endpoint},
    }
    return make_object(fields, ["podMetricsEndpoints", "selector"])
