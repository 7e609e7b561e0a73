"""A running service: real Ray Serve, HAProxy where it runs, and what goes wrong in front of people."""

from __future__ import annotations

import ipaddress
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx2
import psutil
import pytest

from serve_app.client import Client
from tests.serve_app.running.service import KEY, MAX_BODY_BYTES, REPLICA, Service, name_actor

pytestmark = pytest.mark.xdist_group("ray")
TEXTS = ["a red fox in the snow", "two boats at dawn", "a cat"]
REDEPLOY = """
import sys, ray
from ray import serve
from serve_app.app import build
ray.init(address=sys.argv[1], log_to_driver=False)
config = {"model": "builtin:tiny", "max_length": 64, "max_body_bytes": 200_000, "body_seconds": 2.0}
serve.run(build(config | {"keys_file": sys.argv[2], "require_keys": True, "max_texts": int(sys.argv[3])}))
"""


def post(service: Service, path: str = "/embed", key: str = KEY, **options: object) -> httpx2.Response:
    """One request."""
    headers = {"Authorization": f"Bearer {key}"}
    return httpx2.post(service.url + path, headers=headers, timeout=60, **options)  # type: ignore[arg-type]


def find_replica(service: Service) -> psutil.Process:
    """The process that holds the model."""
    (found,) = service.replicas()
    return found


def send_raw(service: Service, head: str, body: bytes = b"") -> bytes:
    """The first line of the answer to bytes that no client library would send."""
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=60)
    lines = f"POST /embed HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n{head}\r\n\r\n"
    connection.sendall(lines.encode() + body)
    return read_line(connection)


def trickle(connection: socket.socket, data: bytes, is_over: threading.Event) -> None:
    """One byte after the other, for as long as the other side takes them."""
    for index in range(len(data)):
        try:
            connection.sendall(data[index : index + 1])
        except OSError:
            return
        if is_over.wait(0.2):
            return


def test_the_service_says_what_it_loaded_and_where_it_listens(service: Service) -> None:
    printed = "".join(service.output)
    assert "name=builtin:tiny model=builtin:tiny device=cpu dtype=float32" in printed
    assert f"listening on {service.url} (" in printed
    assert "with keys" in printed


def test_only_a_known_key_opens(service: Service) -> None:
    assert post(service, json={"inputs": "a"}).status_code == 200
    for path in ("/embed", "/encode", "/v1/embeddings", "/no/such/route"):
        assert post(service, path, key="wrong-key-0123456789", json={"inputs": "a"}).status_code == 401
    assert httpx2.get(service.url + "/info").status_code == 401
    assert httpx2.get(service.url + "/health").status_code == 200


def test_a_refused_key_is_told_in_the_shape_of_each_api(service: Service) -> None:
    answer = post(service, "/v1/embeddings", key="wrong-key-0123456789", json={"input": "a"})
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert post(service, key="wrong-key-0123456789", json={"inputs": "a"}).json()["error_type"] == "Validation"


def test_a_body_over_the_cap_gets_413(service: Service) -> None:
    answer = post(service, json={"inputs": "a" * MAX_BODY_BYTES})
    assert (answer.status_code, answer.json()["error_type"]) == (413, "Validation")


def test_a_body_of_unknown_length_over_the_cap_gets_413(service: Service) -> None:
    chunk = b"%x\r\n" % (MAX_BODY_BYTES + 1) + b"a" * (MAX_BODY_BYTES + 1) + b"\r\n"
    assert send_raw(service, "Transfer-Encoding: chunked", chunk).startswith(b"HTTP/1.1 413")


def test_a_body_that_trickles_gets_408(service: Service) -> None:
    answer = send_raw(service, "Content-Type: application/json\r\nContent-Length: 100", b'{"inputs":')
    assert answer.startswith(b"HTTP/1.1 408")


def test_a_head_that_trickles_gets_408(service: Service) -> None:
    """From HAProxy, which waits no longer than `head_seconds`, though bytes keep coming."""
    is_over = threading.Event()
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=60)
    head = b"POST /embed HTTP/1.1\r\n" + b"X-Slow: 1\r\n" * 1000
    sender = threading.Thread(target=trickle, args=(connection, head, is_over))
    sender.start()
    try:
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")
    finally:
        is_over.set()
        sender.join()
        connection.close()


def test_nothing_listens_for_other_machines_but_one_port_that_asks_for_rays_key(service: Service) -> None:
    """The one by which deployments call each other: Ray gives it no address, and refuses who does not bring its key."""
    open_to_all = find_open_ports(service)
    assert {name: len(ports) for name, ports in open_to_all.items()} == {REPLICA: 1}
    with grpc.insecure_channel(f"127.0.0.1:{open_to_all[REPLICA][0]}") as channel:
        call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"", timeout=30)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def find_open_ports(service: Service) -> dict[str, list[int]]:
    """The TCP ports on which its processes listen on more than loopback, by the process's name."""
    found: dict[str, list[int]] = {}
    for process in service.children():
        for connection in process.net_connections("tcp"):
            address = ipaddress.ip_address(connection.laddr.ip.removeprefix("::ffff:"))
            if connection.status == psutil.CONN_LISTEN and not address.is_loopback:
                found.setdefault(name_actor(process), []).append(connection.laddr.port)
    return found


def test_a_killed_replica_is_replaced_and_retrying_clients_see_no_error(service: Service) -> None:
    before = find_replica(service)
    before.send_signal(signal.SIGKILL)
    before.wait(timeout=60)
    embeddings = Client(service.url, key=KEY, deadline=90).encode(TEXTS)
    assert len(embeddings) == len(TEXTS)
    assert find_replica(service).pid != before.pid


@pytest.mark.long
def test_a_redeploy_loses_no_request(service: Service, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(KEY)
    before = find_replica(service)
    done = threading.Event()

    def keep_asking(number: int) -> set[int]:
        seen = {post(service, json={"inputs": f"text {number}"}).status_code}
        while not done.is_set():
            seen.add(post(service, json={"inputs": f"text {number}"}).status_code)
        return seen

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(keep_asking, number) for number in range(4)]
        try:
            redeploy(service, tmp_path / "keys", max_texts=128)
            assert httpx2.get(service.url + "/info", headers=service.headers).json()["max_client_batch_size"] == 128
            redeploy(service, tmp_path / "keys", max_texts=256)  # as other tests expect it
        finally:
            done.set()
    assert set.union(*(seen.result() for seen in asking)) == {200}
    assert find_replica(service).pid != before.pid


def redeploy(service: Service, keys: Path, max_texts: int) -> None:
    """Deploy the same models with other limits, as an operator would from another shell."""
    service.join(sys.executable, "-c", REDEPLOY, service.ray_address, str(keys), str(max_texts))


def read_line(connection: socket.socket) -> bytes:
    """The first line of the answer."""
    with connection, connection.makefile("rb") as answer:
        return answer.readline()


def test_metrics_have_the_names_of_tei(service: Service) -> None:
    post(service, json={"inputs": "counted"})
    post(service, key="wrong-key-0123456789", json={"inputs": "refused"})
    shown = httpx2.get(service.url + "/metrics", headers=service.headers).text
    wanted = ["te_request_count_total", "te_request_duration_bucket", "te_embed_count_total", "te_queue_size"]
    wanted += ["te_request_failure_total", 'err="unauthorized"', 'route="/embed"']
    assert [name for name in wanted if name not in shown] == []


def test_ray_has_the_same_metrics_with_its_prefix(service: Service) -> None:
    post(service, json={"inputs": "counted"})
    wanted = ("ray_te_request_count_total", "ray_te_request_duration_bucket", "ray_te_queue_size")
    deadline = time.monotonic() + 60
    while not all(name in (text := httpx2.get(service.metrics_url).text) for name in wanted):
        assert time.monotonic() < deadline, [name for name in wanted if name not in text]
        time.sleep(0.5)  # Ray collects them every few seconds, and says nothing when it has


def test_a_host_for_all_is_refused_without_keys() -> None:
    command = [sys.executable, "-m", "t5enc", "serve", "--model", "builtin:tiny", "--host", "0.0.0.0"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "host: expected a loopback address, or keys (--keys-file, T5ENC_API_KEYS), got 0.0.0.0" in ended.stderr


def test_a_port_that_is_taken_is_refused(service: Service) -> None:
    command = [sys.executable, "-m", "t5enc", "serve", "--model", "builtin:tiny", "--port", str(service.port)]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert f"host, port: expected an address to listen on, got 127.0.0.1:{service.port}" in ended.stderr
