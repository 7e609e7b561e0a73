"""A configuration of Ray's autoscaler, second kind, with which a cluster's nodes are processes of this machine.

The provider is the one that Ray's own tests use, named as a foreign one: its defaults are not in Ray's wheel.
"""

from __future__ import annotations

import json
from pathlib import Path

from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

HEAD = "ray.head.default"
COMMANDS = [f"{place}setup_commands" for place in ("", "head_", "worker_")]
COMMANDS += ["head_start_ray_commands", "worker_start_ray_commands", "initialization_commands", "cluster_synced_files"]
LABELS = {"zone": "grown"}
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
# Of the head's processes; KubeRay sets the first with `autoscalerOptions: {version: v2}`.
ENVIRONMENT = {
    "RAY_enable_autoscaler_v2": "1",
    "RAY_FAKE_CLUSTER": "1",
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
}


def write_growth(path: Path, address: str, most: int) -> Path:
    """Up to `most` nodes with a CPU and a label each come when they are wanted, and go after six idle seconds."""
    resources = {"CPU": 1, "object_store_memory": 100 << 20}
    worker = {"resources": resources, "labels": LABELS, "node_config": {}, "max_workers": most}
    cluster = {"gcs_address": address, "head_node_id": FAKE_HEAD_NODE_ID, "launch_multiple": True}
    content = {
        "cluster_name": "t5enc",
        "max_workers": most,
        "idle_timeout_minutes": 0.1,
        "provider": {"type": "external", "module": PROVIDER} | cluster,
        "available_node_types": {HEAD: {"resources": {}, "node_config": {}, "max_workers": 0}, "worker": worker},
        "head_node_type": HEAD,
        "file_mounts": {},
        "auth": {},
    } | {name: [] for name in COMMANDS}
    path.write_text(json.dumps(content))
    return path
