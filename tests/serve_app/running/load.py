"""Retrying clients that ask a service without a pause, and compare every answer with the library's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from serve_app.client import Client
from tests.serve_app.running.processes import PATIENCE
from tests.serve_app.running.real_serve import load_encoder
from tests.serve_app.running.service import KEY, Service


@dataclass
class Load:
    """How many answers came and were right, and whether the clients go on."""

    answers: int = 0
    is_over: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait_for(self, more: int) -> None:
        """Return when so many more answers have come; fails where the clients have ended, or nothing comes."""
        with self.changed:
            wanted = self.answers + more
            assert self.changed.wait_for(lambda: self.is_over or self.answers >= wanted, PATIENCE)
            assert self.answers >= wanted, "a client failed"

    def ask(self, service: Service, number: int) -> None:
        """One client, until the load is over or an answer is not right."""
        texts = [f"client {number}: {count} birds over a lake" for count in range(number + 1)]
        expected = load_encoder().encode(texts)
        try:
            with Client(service.url, key=KEY, timeout=20, deadline=PATIENCE, max_texts=2) as client:
                while not self.is_over:
                    self.check(client.encode(texts).values, expected.values)
        finally:
            self.end()

    def check(self, found: torch.Tensor, expected: torch.Tensor) -> None:
        """Count an answer that is right."""
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        with self.changed:
            self.answers += 1
            self.changed.notify_all()

    def end(self) -> None:
        """Have all clients stop."""
        with self.changed:
            self.is_over = True
            self.changed.notify_all()


@contextmanager
def steady_load(service: Service, clients: int = 4) -> Iterator[Load]:
    """A load that is under way; what any client raised is raised when the block ends."""
    load = Load()
    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(load.ask, service, number) for number in range(clients)]
        try:
            load.wait_for(clients)
            yield load
        finally:
            load.end()
            for one in asking:
                one.result()
