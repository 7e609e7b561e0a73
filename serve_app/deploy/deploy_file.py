"""The YAML that `serve deploy` takes: written from the options of a service, and checked more strictly than Serve does.

Serve takes a name that it does not know for one of a later version, and passes over it without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from serve_app.config import DEPLOYMENT, SAID_TO_SERVE, ServeConfig, check_exposure
from t5enc.errors import ConfigError

IMPORT_PATH = "serve_app.app:build"
HEADER = """# For `serve deploy`, on a Ray that runs already. For HAProxy, set RAY_SERVE_ENABLE_HA_PROXY=1 for its head
# and all workers; where keys are required and do not come from keys_file, T5ENC_API_KEYS for all workers.
"""


def make_deploy_file(config: ServeConfig) -> dict[str, Any]:
    """One application with these options; further ones may be added to the list, each under a route of its own."""
    if config.encoder.source.token is not None or any("token" in options for options in config.models.values()):
        raise ConfigError("token: expected none, for a file would show it; set HF_TOKEN where the replicas run")
    changed = config.find_changes()
    application = {
        "name": "t5enc",
        "route_prefix": config.route_prefix,
        "import_path": IMPORT_PATH,
        "args": {name: value for name, value in changed.items() if name not in SAID_TO_SERVE},
        "logging_config": {"enable_access_log": False},
    }
    http_options = {"host": config.host, "port": config.port}
    return {"proxy_location": "EveryNode", "http_options": http_options, "applications": [application]}


def format_deploy_file(config: ServeConfig) -> str:
    """The same as YAML, and what a file cannot say."""
    import yaml

    return HEADER + yaml.safe_dump(make_deploy_file(config), sort_keys=False)


def check_deploy_file(content: Mapping[str, Any]) -> None:
    """ConfigError naming the first thing that Serve or our application would not know, understand or allow."""
    from ray.serve.schema import ServeDeploySchema

    for where, known in find_unknown(ServeDeploySchema, content, ""):
        raise ConfigError(f"{where}: no such option; expected one of {', '.join(known)}")
    try:
        deployed = ServeDeploySchema.model_validate(dict(content))
    except ValidationError as error:
        first = error.errors()[0]
        where = format_path(first["loc"])
        raise ConfigError(f"{where or 'file'}: {first['msg']}, got {first['input']!r}") from error
    for index, application in enumerate(deployed.applications):
        if application.import_path == IMPORT_PATH:
            names = [deployment.name for deployment in application.deployments]
            _check_application(f"applications[{index}]", application.args, names, deployed.http_options.host)


def find_unknown(model: type[BaseModel], content: Any, where: str) -> Iterator[tuple[str, list[str]]]:
    """(path, names that exist) of every name that a schema, or one inside it, does not know."""
    if not isinstance(content, Mapping):  # the schema itself says what it wants there
        return
    for name, value in content.items():
        path = f"{where}.{name}" if where else str(name)
        if name not in model.model_fields:
            yield path, list(model.model_fields)
            continue
        if inner := find_model(model.model_fields[name].annotation):
            parts = {f"{path}[{index}]": item for index, item in enumerate(value)} if isinstance(value, list) else None
            for part, item in (parts or {path: value}).items():
                yield from find_unknown(inner, item, part)


def find_model(annotation: Any) -> type[BaseModel] | None:
    """The schema in an annotation such as `Optional[Union[Dict, Schema]]` or `List[Schema]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := find_model(part))), None)


def format_path(steps: tuple[int | str, ...]) -> str:
    """`applications[0].args` for ("applications", 0, "args")."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")


def _check_application(where: str, args: Mapping[str, Any], deployments: list[str], host: str) -> None:
    for name in deployments:
        if name != DEPLOYMENT:
            raise ConfigError(f"{where}.deployments: expected {DEPLOYMENT}, the only one, got {name}")
    try:
        config = replace(ServeConfig.from_application(args), host=host)
    except ConfigError as error:
        raise ConfigError(f"{where}.args.{error}") from error
    try:
        check_exposure(config, has_keys=config.require_keys or config.keys_file is not None)
    except ConfigError as error:
        raise ConfigError(f"http_options.{error} ({where}.args)") from error
