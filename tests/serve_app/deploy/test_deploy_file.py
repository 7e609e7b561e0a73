"""The YAML for `serve deploy`: what is written is good, and what Serve would pass over is refused by its path."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from serve_app.config import ServeConfig
from serve_app.deploy.deploy_file import check_deploy_file, format_deploy_file, make_deploy_file
from t5enc.errors import ConfigError

pytest.importorskip("ray.serve", reason="needs ray[serve]")


def make(**options: Any) -> dict[str, Any]:
    """The file of a tiny model."""
    return make_deploy_file(ServeConfig.from_mapping({"model": "builtin:tiny", **options}))


def set_at(content: dict[str, Any], path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    """A copy with one value set, and what is above it made where it is not there."""
    changed: Any = copy.deepcopy(content)
    place = changed
    for step in path[:-1]:
        place = place[step] if isinstance(step, int) or step in place else place.setdefault(step, {})
    place[path[-1]] = value
    return changed


def test_it_says_what_was_asked_for_and_nothing_else() -> None:
    content = make(replicas="1:3", num_gpus=0.5, host="::1", port=80, route_prefix="/m/tiny", max_texts=8)
    assert content["http_options"] == {"host": "::1", "port": 80}
    (application,) = content["applications"]
    assert (application["import_path"], application["route_prefix"]) == ("serve_app.app:build", "/m/tiny")
    assert application["args"] == {"model": "builtin:tiny", "replicas": "1:3", "num_gpus": 0.5, "max_texts": 8}


def test_the_options_in_it_are_those_that_were_asked_for() -> None:
    asked = ServeConfig.from_mapping({"model": "a/b", "models": {"c": {"model": "d"}}, "body_seconds": 3})
    args = yaml.safe_load(format_deploy_file(asked))["applications"][0]["args"]
    assert ServeConfig.from_application(args) == asked


def test_what_is_written_is_accepted() -> None:
    check_deploy_file(make())
    check_deploy_file(make(host="0.0.0.0", insecure=True))
    check_deploy_file(yaml.safe_load(format_deploy_file(ServeConfig.from_mapping({"model": "builtin:tiny"}))))


def test_a_token_is_not_written() -> None:
    with pytest.raises(ConfigError, match="token: expected none, for a file would show it"):
        make(token="hf_secret")


APP: tuple[str | int, ...] = ("applications", 0)
DEPLOYMENTS = [{"name": "t5enc", "max_ongoing_request": 3}]
POLICY = [{"name": "t5enc", "autoscaling_config": {"policy": {"policy_functon": "a:b"}}}]


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        (("proxy_locaton",), "HeadOnly", "proxy_locaton"),
        (("http_options", "hots"), "127.0.0.1", "http_options.hots"),
        (("grpc_options", "prot"), 9000, "grpc_options.prot"),
        (("logging_config", "log_lvl"), "INFO", "logging_config.log_lvl"),
        ((*APP, "rout_prefix"), "/a", r"applications\[0\].rout_prefix"),
        ((*APP, "logging_config", "enable_acces_log"), True, r"applications\[0\].logging_config.enable_acces_log"),
        ((*APP, "deployments"), DEPLOYMENTS, r"applications\[0\].deployments\[0\].max_ongoing_request"),
        (
            (*APP, "deployments"),
            [{"name": "t5enc", "ray_actor_options": {"num_gpu": 1}}],
            r"applications\[0\].deployments\[0\].ray_actor_options.num_gpu",
        ),
        (
            (*APP, "deployments"),
            POLICY,
            r"applications\[0\].deployments\[0\].autoscaling_config.policy.policy_functon",
        ),
        ((*APP, "args", "modle"), "builtin:tiny", r"applications\[0\].args.modle"),
        ((*APP, "args", "models"), {"b": {"model": "b", "dtyp": "auto"}}, r"applications\[0\].args.models.b: dtyp"),
    ],
)
def test_a_name_that_nothing_knows_is_refused_by_its_path(
    path: tuple[str | int, ...], value: object, where: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{where}: no such option; expected one of "):
        check_deploy_file(set_at(make(), path, value))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("http_options", "port"), "many", r"http_options.port: .*got 'many'"),
        (("applications",), 3, "applications: .*got 3"),
        ((*APP, "args", "max_texts"), "few", r"applications\[0\].args.max_texts: .*got 'few'"),
        ((*APP, "args", "route_prefix"), "/a", r"applications\[0\].args.route_prefix: expected among Serve's own"),
        (
            (*APP, "deployments"),
            [{"name": "T5"}],
            r"applications\[0\].deployments: expected t5enc, the only one, got T5",
        ),
        (("http_options", "host"), "0.0.0.0", r"http_options.host: .* got 0.0.0.0 and no key.*applications\[0\].args"),
        (("http_options",), {}, r"http_options.host: .* got 0.0.0.0 and no key"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_path(
    path: tuple[str | int, ...], value: object, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_deploy_file(set_at(make(), path, value))


def test_other_peoples_applications_are_theirs() -> None:
    content = make()
    content["applications"].append({"name": "b", "route_prefix": "/b", "import_path": "b:app", "args": {"any": 1}})
    check_deploy_file(content)
    with pytest.raises(ConfigError, match=r"applications\[1\].import_pth: no such option"):
        check_deploy_file(set_at(content, ("applications", 1, "import_pth"), "b:app"))


def run(*arguments: str) -> Any:
    """The command line with these arguments."""
    from t5enc.cli import build_app

    return CliRunner().invoke(build_app(), list(arguments))


def test_the_command_line_writes_a_file_that_it_accepts(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("test-key-0123456789abcdef")
    given = ["--model", "builtin:tiny", "--host", "0.0.0.0", "--keys-file", str(tmp_path / "keys")]
    assert run("serve", *given, "--write-deploy-file", str(tmp_path / "serve.yaml")).exit_code == 0
    checked = run("serve-check", str(tmp_path / "serve.yaml"))
    assert (checked.exit_code, checked.output) == (0, f"{tmp_path / 'serve.yaml'}: good\n")
    args = yaml.safe_load((tmp_path / "serve.yaml").read_text())["applications"][0]["args"]
    assert args["require_keys"] is True


def test_the_command_line_prints_a_file() -> None:
    printed = run("serve", "--model", "builtin:tiny", "--write-deploy-file", "-")
    assert yaml.safe_load(printed.output) == make()
