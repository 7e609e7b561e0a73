"""What a service is asked for: strict names, plain types, and nothing open to all by accident."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve_app.config import ServeConfig, check_exposure, is_loopback
from t5enc.errors import ConfigError
from t5enc.recipes.yaml_files import read_options


def make(**options: Any) -> ServeConfig:
    """A configuration of the tiny model."""
    return ServeConfig.from_mapping({"model": "builtin:tiny", **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_ongoing_request": 3}, "max_ongoing_request: no such option; expected one of model, "),
        ({"port": "many"}, "port: .* got 'many'"),
        ({"port": 0}, "port: expected 1 to 65535, got 0"),
        ({"replicas": "0"}, "replicas: expected N or MIN:MAX with 1 <= MIN <= MAX, got '0'"),
        ({"replicas": "4:2"}, "replicas: expected .* got '4:2'"),
        ({"replicas": "two"}, "replicas: expected .* got 'two'"),
        ({"max_body_bytes": 0}, "max_body_bytes: expected more than 0, got 0"),
        ({"body_seconds": -1}, "body_seconds: expected more than 0, got -1"),
        ({"head_seconds": 0}, "head_seconds: expected more than 0, got 0"),
        ({"upscale_seconds": -1}, "upscale_seconds: expected 0 or more, got -1"),
        ({"route_prefix": "m/x"}, "route_prefix: expected / or /NAME/.*got 'm/x'"),
        ({"route_prefix": "/m/"}, "route_prefix: expected / or /NAME/.*got '/m/'"),
        ({"target_tokens": 0}, "target_tokens: expected 1 or more"),
        ({"target_tokens": 600, "queue_tokens": 600}, r"target_tokens: .* fewer than queue_tokens \(600\).* got 600"),
        ({"queue_texts": 3}, "queue_texts: expected at least max_texts"),
        ({"num_gpus": -0.5}, "num_cpus, num_gpus: expected 0 or more"),
        ({"token_budget": 100}, "model: token_budget: expected at least 16 and max_length"),
        ({"models": {"tiny": {"model": "builtin:tiny", "size": 3}}}, "models.tiny: size: no such option"),
        ({"models": {"builtin:tiny": {"model": "builtin:tiny"}}}, "models.builtin:tiny: expected another name"),
        ({"models": {"other": {}}}, "models.other: .*model"),
        ({"models": {"other": {"model": "builtin:tiny", 1: 2}}}, "models.other: 1: no such option; expected one of"),
        ({"recipe": {"name": "a", "max_length": 8, "rows": "no"}}, "^model: rows: expected one of real, .* got 'no'"),
        ({"recipe": {"name": "a", 1: 8}}, "^model: 1: no such field of a recipe"),
        ({"models": {"b": {"model": "builtin:tiny", "recipe": {"name": "a"}}}}, "models.b: max_length: a recipe needs"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**options)


def test_a_name_that_is_no_text_is_unknown() -> None:
    with pytest.raises(ConfigError, match=r"^1: no such option; expected one of model, "):
        ServeConfig.from_mapping({"model": "builtin:tiny", 1: 2})


def test_a_model_is_the_one_thing_that_must_be_named() -> None:
    with pytest.raises(ConfigError, match="model: expected a hub id"):
        ServeConfig.from_mapping({"port": 80})


def test_words_of_a_command_line_become_what_they_stand_for() -> None:
    config = make(port="80", num_gpus="0.5", replicas=2, insecure="true", models={})
    assert (config.port, config.num_gpus, config.replica_range(), config.insecure) == (80, 0.5, (2, 2), True)


def test_the_first_models_options_stand_beside_the_others() -> None:
    config = make(dtype="float32", num_threads=2)
    assert (config.model, config.dtype, config.num_threads, config.recipe) == ("builtin:tiny", "float32", 2, None)


def test_a_mapping_survives_the_way_to_a_replica() -> None:
    config = make(replicas="1:3", models={"other": {"model": "builtin:tiny-umt5"}}, max_length=64)
    assert ServeConfig.from_mapping(config.to_mapping()) == config
    assert config.replica_range() == (1, 3)


def test_the_first_model_is_named_by_the_end_of_its_id() -> None:
    assert make(model="google/t5-v1_1-xxl").default_name == "t5-v1_1-xxl"
    assert make(model="/models/my t5/").default_name == "my-t5"
    assert make(name="text").default_name == "text"


def test_further_models_take_over_what_they_do_not_say() -> None:
    config = make(max_length=64, dtype="float32", models={"long": {"model": "builtin:tiny-mt5", "max_length": 128}})
    encoders = config.encoders()
    assert list(encoders) == ["builtin:tiny", "long"]
    assert (encoders["long"].dtype, encoders["long"].max_length) == ("float32", 128)


def test_all_replicas_and_models_compile_into_one_folder() -> None:
    """Replicas are built from one mapping, so that two on a node find what the other has compiled."""
    asked = make(compile_cache="/cache", replicas="2", models={"other": {"model": "builtin:tiny-umt5"}})
    options = ServeConfig.from_mapping(asked.to_mapping()).encoders()
    assert [options[name].compile_cache for name in ("builtin:tiny", "other")] == ["/cache", "/cache"]


def test_what_was_asked_for_is_told_from_what_is_so_by_default() -> None:
    assert make().find_changes() == {"model": "builtin:tiny"}
    assert make(port=8001, models={}).find_changes() == {"model": "builtin:tiny", "port": 8001}


@pytest.mark.parametrize("name", ["host", "port", "route_prefix"])
def test_an_application_does_not_take_what_only_serve_can_do(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: expected among Serve's own options"):
        ServeConfig.from_application({"model": "builtin:tiny", name: "x"})


def test_what_is_refused_is_told_without_the_other_options() -> None:
    with pytest.raises(ConfigError) as refused:
        make(token="hf_secret", port=0)
    assert str(refused.value) == "port: expected 1 to 65535, got 0"


def test_a_token_is_not_shown() -> None:
    assert "hf_secret" not in repr(make(token="hf_secret"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_a_host_that_only_this_machine_reaches_needs_no_keys(host: str) -> None:
    assert is_loopback(host)
    check_exposure(make(host=host), has_keys=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_any_other_host_needs_keys_or_the_word_insecure(host: str) -> None:
    with pytest.raises(ConfigError, match=f"host: expected a loopback address, or keys .* got {host} and no key"):
        check_exposure(make(host=host), has_keys=False)
    check_exposure(make(host=host), has_keys=True)
    check_exposure(make(host=host, insecure=True), has_keys=False)


def test_a_replica_that_misses_its_keys_does_not_open_without_them() -> None:
    with pytest.raises(ConfigError, match="require_keys: expected keys_file, or keys in T5ENC_API_KEYS"):
        check_exposure(make(require_keys=True), has_keys=False)


def test_a_file_holds_options_under_the_names_of_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model: builtin:tiny\nmax-length: 64\n")
    assert read_options(tmp_path / "a.yaml") == {"model": "builtin:tiny", "max_length": 64}


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", "\x00"])
def test_a_file_that_holds_no_options_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"a\.yaml: expected"):
        read_options(tmp_path / "a.yaml")
