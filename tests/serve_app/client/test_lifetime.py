"""Clients in loops, threads and forked processes, and what becomes of calls when one is closed."""

from __future__ import annotations

import asyncio
import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from serve_app.client import AsyncClient, Client
from t5enc.errors import ConfigError, ServiceError
from tests.serve_app.client.conftest import TEXTS
from tests.serve_app.faulty_server import FaultyServer, read_back


def test_the_async_client_serves_many_callers_of_one_loop(server: FaultyServer) -> None:
    async def run() -> list[list[str]]:
        async with AsyncClient(server.url) as client:
            return [read_back(part) for part in await asyncio.gather(*(client.encode([text]) for text in "abc"))]

    assert asyncio.run(run()) == [["a"], ["b"], ["c"]]


def test_the_client_works_where_a_loop_is_running(client: Client) -> None:
    async def run() -> list[str]:
        return read_back(client.encode(TEXTS))

    assert asyncio.run(run()) == TEXTS


def test_a_client_that_is_dropped_ends_its_thread(server: FaultyServer) -> None:
    client = Client(server.url)
    client.encode(TEXTS)
    thread = client._thread
    del client
    thread.join(timeout=60)
    assert not thread.is_alive()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_is_told_to_make_its_own_client(client: Client) -> None:
    child = os.fork()
    if child == 0:
        try:
            client.encode(TEXTS)
        except ConfigError:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_closing_a_client_ends_the_calls_that_wait() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Client(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(client.encode, ["a"])
            with silent.accept()[0] as asked:
                asked.recv(1)
                client.close()
            with pytest.raises(ServiceError, match="the client was closed before the answer was there"):
                waiting.result(timeout=60)
    with pytest.raises(ConfigError, match="this client was closed"):
        client.encode(["a"])
