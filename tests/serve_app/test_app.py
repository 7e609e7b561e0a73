"""The application as Serve builds it, from words and from options."""

from __future__ import annotations

import pytest

from serve_app.app import build, make_deployment
from serve_app.config import ServeConfig
from t5enc.errors import ConfigError

serve = pytest.importorskip("ray.serve", reason="needs ray[serve]")


def test_serve_run_builds_the_application_from_words() -> None:
    assert isinstance(build({"model": "builtin:tiny", "replicas": "2"}), serve.Application)
    with pytest.raises(ConfigError, match="modle: no such option"):
        build({"modle": "builtin:tiny"})
    with pytest.raises(ConfigError, match="port: expected among Serve's own options"):
        build({"model": "builtin:tiny", "port": "8001"})


def test_replicas_of_a_range_follow_the_load() -> None:
    config = ServeConfig.from_mapping({"model": "builtin:tiny", "replicas": "1:3", "num_gpus": 0.5})
    deployment = make_deployment(config)
    scaling = deployment._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (1, 3)
    assert deployment.ray_actor_options["num_gpus"] == 0.5
