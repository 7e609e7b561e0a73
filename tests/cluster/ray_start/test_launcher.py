"""The file for `ray up` is one that Ray takes, whatever provider it would ask."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.cluster.image.dockerfile import list_chain
from tests.cluster.kubernetes.manifests import FOLDER

ray = pytest.importorskip("ray", reason="needs ray")

CONFIG: dict[str, Any] = yaml.safe_load((FOLDER / "launcher-aws.yaml").read_text(encoding="utf-8"))
SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8"))


def test_ray_s_own_schema_lets_it_in() -> None:
    jsonschema.validate(CONFIG, SCHEMA)


@pytest.mark.parametrize("path", [("max_worker",), ("docker", "imag"), ("available_node_types", "spot", "max_worker")])
def test_a_typing_mistake_is_refused(path: tuple[str, ...]) -> None:
    changed = copy.deepcopy(CONFIG)
    place = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = 3
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed, SCHEMA)


def test_its_parts_fit_together() -> None:
    types = CONFIG["available_node_types"]
    assert CONFIG["head_node_type"] in types
    workers = [kind for name, kind in types.items() if name != CONFIG["head_node_type"]]
    assert CONFIG["max_workers"] == sum(kind["max_workers"] for kind in workers)
    assert types[CONFIG["head_node_type"]]["resources"]["CPU"] == 0
    assert "--num-cpus=0" in CONFIG["head_start_ray_commands"][-1]
    assert "--env RAY_AUTH_MODE=token" in CONFIG["docker"]["run_options"]


def test_every_machine_has_an_image_of_its_own_and_not_rays_old_one() -> None:
    config = pytest.importorskip("ray.autoscaler._private.aws.config", reason="needs boto3")
    checked = copy.deepcopy(CONFIG)
    config._check_ami(checked)
    assert checked == CONFIG
    images = [kind["node_config"]["ImageId"] for kind in CONFIG["available_node_types"].values()]
    assert all(image.startswith(("resolve:ssm:/aws/service/", "ami-")) for image in images)


def test_the_token_is_mounted_where_the_user_of_the_image_is_at_home() -> None:
    docker = pytest.importorskip("ray.autoscaler._private.docker", reason="needs ray[default]")
    image = [step for stage in list_chain("cuda") for step in stage.steps]
    homes = [rest.removeprefix("HOME=") for name, rest in image if name == "ENV" and rest.startswith("HOME=")]
    mounts = {path: path for path in CONFIG["file_mounts"]}
    command = docker.docker_start_cmds("ubuntu", "t5enc", mounts, "t5enc", [], "t5enc", [*homes, "/root"][0], "docker")
    (home,) = (rest for name, rest in image if name == "WORKDIR" and rest.startswith("/home/"))
    assert f":{home}/.ray/auth_token" in command
