"""The manifests agree with each other, with the runbook, and with the service's own file."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipelines.job import EncodeJob
from serve_app.deploy.deploy_file import check_deploy_file
from t5enc.errors import ConfigError
from t5enc.recipes.yaml_files import read_options
from tests.cluster.kubernetes.manifests import FOLDER, MANIFESTS, REPOSITORY, find_all, find_manifest
from tests.cluster.kubernetes.ray_clusters import CLUSTERS, JOB, SERVICE, list_pods

RUNBOOK = (REPOSITORY / "docs" / "cluster.md").read_text(encoding="utf-8")


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


def test_a_retried_job_finds_what_the_one_before_it_did() -> None:
    job = yaml.safe_load(find_manifest("ConfigMap", "t5enc-encode")["data"]["job.yaml"])
    assert job["output"].startswith("s3://")
    assert not job.get("overwrite")
    assert JOB["spec"]["backoffLimit"] > 0
    assert JOB["spec"]["shutdownAfterJobFinishes"] is True
