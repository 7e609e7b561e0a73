"""What HAProxy is started with, and what the launcher makes of the file that Ray writes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from serve_app.deploy.haproxy import has_haproxy, make_environment, write_launcher

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
    default_backend default_backend
"""
UNKNOWN = 'backend default_backend\n    http-request return status 404 content-type text/plain lf-string "not found"\n'


def start(folder: Path, content: str, *options: str) -> subprocess.CompletedProcess[str]:
    """The launcher run on such a file; HAProxy itself is only asked for its version, or what else options say."""
    (folder / "haproxy.cfg").write_text(content)
    command = [write_launcher(folder, ("9101", "8404"), 1.5), *(options or ("-v",)), "-f", folder / "haproxy.cfg"]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def launch(folder: Path, content: str) -> str:
    """The file after the launcher was run on it."""
    started = start(folder, content)
    assert started.returncode == 0, started.stderr
    return (folder / "haproxy.cfg").read_text()


def test_statistics_listen_on_loopback_and_heads_have_a_deadline(tmp_path: Path) -> None:
    changed = launch(tmp_path, FILE + UNKNOWN)
    assert "    bind 127.0.0.1:9101\n" in changed
    assert "  bind 127.0.0.1:8404\n" in changed
    assert "    bind *:8000\n" in changed
    assert "defaults\n    timeout http-request 1500ms\n" in changed


def test_a_proxy_that_knows_of_no_application_yet_asks_to_come_back(tmp_path: Path) -> None:
    changed = launch(tmp_path, FILE + UNKNOWN)
    assert changed.endswith('return status 503 content-type text/plain lf-string "not found" hdr Retry-After 1\n')


def test_a_path_of_no_application_is_not_found(tmp_path: Path) -> None:
    known = FILE + "    use_backend app if is_app\n" + UNKNOWN
    assert launch(tmp_path, known).endswith(UNKNOWN)


def test_a_deadline_that_is_there_stays(tmp_path: Path) -> None:
    once = launch(tmp_path, FILE + UNKNOWN)
    assert launch(tmp_path, once) == once


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("bind :9101", "bind 0.0.0.0:9101", "statistics on port 9101 of 127.0.0.1 alone"),
        ("bind *:8404", "bind [::]:8404 v4v6", "statistics on port 8404 of 127.0.0.1 alone"),
        ("bind *:8404", "bind *:8404\n  bind :::8404", "statistics on port 8404 of 127.0.0.1 alone"),
        ("bind *:8404", "bind 127.0.0.1:84041", "statistics on port 8404 of 127.0.0.1 alone"),
        ("bind :9101", "bind 127.0.0.1:9101,*:9101", "statistics on port 9101 of 127.0.0.1 alone"),
        ("defaults\n", "defaults http\n", "a deadline for heads in its defaults"),
        ("http_frontend\n", "serve_frontend\n", "x-request-disconnect-disabled dropped in its frontend"),
        ("return status 404", "deny deny_status 404", "503 with Retry-After where it knows of no application"),
        (
            "backend default_backend\n    http",
            "backend none\n    http",
            "503 with Retry-After where it knows of no app",
        ),
    ],
)
def test_a_file_of_another_ray_in_which_a_change_cannot_be_made_is_not_started(
    old: str, new: str, expected: str, tmp_path: Path
) -> None:
    started = start(tmp_path, (FILE + UNKNOWN).replace(old, new))
    assert (started.returncode, started.stdout) == (1, "")
    assert f"haproxy.cfg: expected {expected}" in started.stderr


def test_what_stands_in_another_section_or_in_a_remark_is_not_taken_for_a_change(tmp_path: Path) -> None:
    backend = "    # use_backend, x-request-disconnect-disabled\nbackend app\n    timeout http-request 9999s\n"
    changed = launch(tmp_path, FILE + UNKNOWN + backend)
    assert "defaults\n    timeout http-request 1500ms\n" in changed
    assert "frontend http_frontend\n    http-request del-header x-request-disconnect-disabled\n" in changed
    assert "hdr Retry-After 1\n" in changed


@pytest.mark.parametrize("has_application", [False, True])
def test_the_file_that_this_ray_writes_is_changed_and_haproxy_takes_it(has_application: bool, tmp_path: Path) -> None:
    started = start(tmp_path, write_file_of_ray(tmp_path, has_application), "-c")
    assert started.returncode == 0, started.stderr
    changed = (tmp_path / "haproxy.cfg").read_text()
    assert ("hdr Retry-After 1" in changed) is not has_application


def write_file_of_ray(folder: Path, has_application: bool) -> str:
    """What Ray hands to HAProxy before it knows of an application, or then."""
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig

    place = str(folder / "ray" / "haproxy.cfg")
    config = HAProxyConfig(
        socket_path=str(folder / "admin.sock"),
        metrics_socket_path=str(folder / "metrics.sock"),
        metrics_port=9101,
        stats_port=8404,
        has_received_routes=has_application,
        has_received_servers=has_application,
    )
    backends = {"app": BackendConfig(name="app", path_prefix="/", app_name="app")} if has_application else {}
    HAProxyApi(config, backends, place)._generate_config_file_internal()
    return Path(place).read_text()


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
    (tmp_path / "haproxy.cfg").write_text(FILE + UNKNOWN)
    command = [made["RAY_SERVE_HAPROXY_BINARY_PATH"], "-v", "-f", tmp_path / "haproxy.cfg"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert "    bind 127.0.0.1:9101\n" in (tmp_path / "haproxy.cfg").read_text()


def test_no_client_can_ask_a_replica_to_go_on_without_it(tmp_path: Path) -> None:
    changed = launch(tmp_path, FILE + UNKNOWN)
    assert "frontend http_frontend\n    http-request del-header x-request-disconnect-disabled\n" in changed


def test_without_its_mode_it_needs_nothing(tmp_path: Path) -> None:
    assert make_environment({"RAY_SERVE_ENABLE_HA_PROXY": "0"}, tmp_path, 30) == {"RAY_SERVE_ENABLE_HA_PROXY": "0"}
    assert list(tmp_path.iterdir()) == []
