"""What HAProxy is started with, and what the launcher makes of the file that Ray writes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from serve_app.haproxy import has_haproxy, make_environment, write_launcher

pytestmark = pytest.mark.skipif(not has_haproxy(), reason="needs HAProxy, which ray[serve] brings on Linux")
FILE = """global
    nbthread 1
defaults
    mode http
    timeout client 120s
frontend prometheus
    bind :9101
listen stats
  bind *:8404
frontend http_frontend
    bind *:8000
"""


def launch(folder: Path, content: str) -> str:
    """The file after the launcher was run on it; HAProxy itself is only asked for its version."""
    (folder / "haproxy.cfg").write_text(content)
    launcher = write_launcher(folder, ("9101", "8404"), 1.5)
    subprocess.run([launcher, "-v", "-f", folder / "haproxy.cfg"], check=True, capture_output=True, timeout=60)
    return (folder / "haproxy.cfg").read_text()


def test_statistics_listen_on_loopback_and_heads_have_a_deadline(tmp_path: Path) -> None:
    changed = launch(tmp_path, FILE)
    assert "    bind 127.0.0.1:9101\n" in changed
    assert "  bind 127.0.0.1:8404\n" in changed
    assert "    bind *:8000\n" in changed
    assert "defaults\n    timeout http-request 1500ms\n" in changed


UNKNOWN = 'backend default_backend\n    http-request return status 404 content-type text/plain lf-string "not found"\n'


def test_a_proxy_that_knows_of_no_application_yet_asks_to_come_back(tmp_path: Path) -> None:
    changed = launch(tmp_path, FILE + UNKNOWN)
    assert changed.endswith('return status 503 content-type text/plain lf-string "not found" hdr Retry-After 1\n')


def test_a_path_of_no_application_is_not_found(tmp_path: Path) -> None:
    known = FILE + "    use_backend app if is_app\n" + UNKNOWN
    assert launch(tmp_path, known).endswith(UNKNOWN)


def test_a_deadline_that_is_there_stays(tmp_path: Path) -> None:
    once = launch(tmp_path, FILE)
    assert launch(tmp_path, once) == once


def test_its_files_are_in_the_folder_and_what_is_given_stays(tmp_path: Path) -> None:
    made = make_environment({"RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "7", "HOME": "/"}, tmp_path, 30)
    assert made["RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S"] == "7"
    assert "HOME" not in made
    for name in ("SOCKET_PATH", "METRICS_SOCKET_PATH", "CONFIG_FILE_LOC", "SERVER_STATE_FILE"):
        assert Path(made[f"RAY_SERVE_HAPROXY_{name}"]).parent == tmp_path


def test_statistics_on_ports_that_were_given_are_closed_to_others_too(tmp_path: Path) -> None:
    made = make_environment(
        {"RAY_SERVE_HAPROXY_METRICS_PORT": "9101", "RAY_SERVE_HAPROXY_STATS_PORT": "8404"}, tmp_path, 1
    )
    (tmp_path / "haproxy.cfg").write_text(FILE)
    command = [made["RAY_SERVE_HAPROXY_BINARY_PATH"], "-v", "-f", tmp_path / "haproxy.cfg"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert "    bind 127.0.0.1:9101\n" in (tmp_path / "haproxy.cfg").read_text()


def test_no_client_can_ask_a_replica_to_go_on_without_it(tmp_path: Path) -> None:
    changed = launch(tmp_path, FILE)
    assert "frontend http_frontend\n    http-request del-header x-request-disconnect-disabled\n" in changed


def test_without_its_mode_it_needs_nothing(tmp_path: Path) -> None:
    assert make_environment({"RAY_SERVE_ENABLE_HA_PROXY": "0"}, tmp_path, 30) == {"RAY_SERVE_ENABLE_HA_PROXY": "0"}
    assert list(tmp_path.iterdir()) == []
