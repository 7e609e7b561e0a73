"""The application under Ray's own commands: `serve run` with words and with a file, and beside others of its kind."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from serve_app.client import Client
from serve_app.config import ServeConfig
from serve_app.deploy.deploy_file import check_deploy_file, make_deploy_file
from serve_app.deploy.haproxy import find_port
from t5enc.text_encoder import TextEncoder
from tests.serve_app.running.service import RAY_KEY, Running, Service

pytest.importorskip("ray.serve", reason="needs ray[serve]")
pytestmark = pytest.mark.xdist_group("ray")
# The command `serve`, and SIGINT ends it also where a shell has it ignored, as in its background jobs.
SERVE_COMMAND = """
import signal
from ray.serve.scripts import cli
signal.signal(signal.SIGINT, signal.default_int_handler)
cli()
"""
SERVE = [sys.executable, "-c", SERVE_COMMAND, "run"]
WORDS = ["serve_app.app:build", "model=builtin:tiny-umt5", "max_length=32", "num_cpus=0", "name=words"]
# The model's thread hangs in the midst of a batch, as it would in a driver that never comes back.
HANGING = """
import sys, threading, ray
from ray import serve
from serve_app.app import Ingress, make_deployment
from serve_app.config import ServeConfig

class Hanging(Ingress):
    def hang(self):
        for service in self._models.values():
            service._actor.encoder.encode_ragged = lambda *_, **__: threading.Event().wait()

ray.init(address=sys.argv[1], log_to_driver=False)
config = ServeConfig.from_mapping({"model": "builtin:tiny", "num_cpus": 0, "stuck_seconds": 2, "name": "hanging"})
app = make_deployment(config).options(func_or_class=Hanging).bind(config.to_mapping())
handle = serve.run(app, name="hanging", route_prefix="/m/hanging")
handle.hang.remote().result()
"""
DELETE = """
import sys, ray
from ray import serve
ray.init(address=sys.argv[1], log_to_driver=False)
serve.delete(sys.argv[2])
"""


def get(url: str, **options: Any) -> httpx2.Response:
    """One request."""
    return httpx2.get(url, timeout=60, **options)


@pytest.mark.long
def test_serve_run_takes_words_and_serves_beside_others_under_a_path_of_its_own(service: Service) -> None:
    address = ["--address", service.ray_address, "--non-blocking"]
    service.join(*SERVE, *address, "--name", "words", "--route-prefix", "/m/words", *WORDS)
    try:
        check_words(service.url + "/m/words")
        assert get(service.url + "/info", headers=service.headers).json()["served_model_name"] == "builtin:tiny"
    finally:
        service.join(sys.executable, "-c", DELETE, service.ray_address, "words")


def check_words(url: str) -> None:
    """What was said by words holds; the page, its addresses and the description are under the path, too."""
    info = get(url + "/info").json()
    assert (info["served_model_name"], info["max_input_length"]) == ("words", 32)
    page = get(url + "/", headers={"Accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")
    assert get(url + "/stats").json()["default"] == "words"
    description = get(url + "/openapi.json").json()
    assert description["servers"][0]["url"] == "/m/words"
    assert len(Client(url).encode(["a cat"])) == 1


@pytest.mark.own_service
def test_a_written_file_deploys_several_models_and_applications(tmp_path: Path) -> None:
    port = find_port()
    url = f"http://127.0.0.1:{port}"
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(make_two_applications(port)))
    started = run_file(tmp_path / "serve.yaml", "Submitted deploy config")
    try:
        wait_until_deployed(url, url + "/m/alone")
        check_two_models(url)
        assert [model["id"] for model in get(url + "/m/alone/v1/models").json()["data"]] == ["alone"]
    finally:
        started.stop(signal.SIGINT)


def run_file(path: Path, ready: str) -> Running:
    """`serve run` of a file on a Ray of its own, which has printed what tells that it is ready."""
    return Running([*SERVE, str(path)], ready, RAY_KEY | {"RAY_SERVE_ENABLE_HA_PROXY": "0"})


def wait_until_deployed(*urls: str) -> None:
    """Serve tells nobody when the applications of a file are there: they are asked until they answer."""
    deadline = time.monotonic() + 120
    while any((answer := get(url + "/health")).status_code != 200 for url in urls):
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.2)


def make_two_applications(port: int) -> dict[str, Any]:
    """A file as it is written, with one more application put into it."""
    models = {"other": {"model": "builtin:tiny-umt5"}}
    options = {"model": "builtin:tiny", "port": port, "max_length": 64, "models": models, "num_cpus": 0}
    content = make_deploy_file(ServeConfig.from_mapping(options))
    alone = {"model": "builtin:tiny", "name": "alone", "num_cpus": 0}
    content["applications"].append(
        {"name": "alone", "route_prefix": "/m/alone", "import_path": "serve_app.app:build", "args": alone}
    )
    check_deploy_file(content)
    return content


def check_two_models(url: str) -> None:
    """Each answers for itself, and nobody for a third."""
    for name, model in {"builtin:tiny": "builtin:tiny", "other": "builtin:tiny-umt5"}.items():
        expected = TextEncoder.from_pretrained(model, max_length=64).encode(["a red fox"])
        found = Client(url, model=name).encode(["a red fox"])
        assert (found.values - expected.values).abs().max() < 1e-5
    answer = httpx2.post(url + "/v1/embeddings", json={"input": "a", "model": "third"}, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.own_service
def test_a_host_for_all_is_refused_without_keys_under_serve_run(tmp_path: Path) -> None:
    """The replica asks Serve where it listens: nothing in the application's own options tells."""
    content = make_deploy_file(ServeConfig.from_mapping({"model": "builtin:tiny", "port": find_port()}))
    content["http_options"]["host"] = "0.0.0.0"
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(content))
    started = run_file(tmp_path / "serve.yaml", "host: expected a loopback address, or keys")
    started.stop(signal.SIGINT)


@pytest.mark.long
def test_a_model_that_hangs_is_replaced(service: Service) -> None:
    url = service.url + "/m/hanging"
    service.join(sys.executable, "-c", HANGING, service.ray_address)
    try:
        before = get(url + "/stats").json()["replica"]
        with Client(url, deadline=90) as client:
            assert len(client.encode(["a cat"])) == 1
        assert get(url + "/stats").json()["replica"] != before
    finally:
        service.join(sys.executable, "-c", DELETE, service.ray_address, "hanging")
