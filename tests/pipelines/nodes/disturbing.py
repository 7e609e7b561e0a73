"""A seeded scenario: a driver at work on a cluster whose nodes, actors and driver are killed and replaced.

What happens next, when and to whom is drawn from the seed, as far as the machine's own timing lets it be: the log
says what became of it.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from tests.pipelines.driving import STREAM_SECONDS, start_driver
from tests.pipelines.nodes.nodes import Nodes
from tests.waiting import wait_until

# What can happen, and how often of so many times.
EVENTS = {"encoder": 3, "crash": 2, "vanish": 2, "stop": 2, "drain": 2, "add": 2, "driver": 1}
TO_NODES = ("crash", "vanish", "stop", "drain")
MOST_NODES = 5
MOST_SHARDS_BETWEEN = 8
PATIENCE = 300.0


class Scenario:
    """One run under disturbance, and the log of it."""

    def __init__(self, nodes: Nodes, folder: Path, options: dict[str, Any], seed: int) -> None:
        self.nodes = nodes
        self.folder = folder
        self.options = options | {"ray_address": nodes.address}
        self.chance = random.Random(seed)
        self.started = time.monotonic()
        self.driver = start_driver(folder, self.options)
        self.drained: list[Any] = []
        self.victims: set[int] = set()

    def run(self, events: Sequence[str | None]) -> None:
        """Let these things happen, None for one that is drawn; AssertionError where the driver does not end well."""
        try:
            for number, kind in enumerate(events):
                self._await_shards(self.count_shards() + self.chance.randint(1, MOST_SHARDS_BETWEEN))
                self.happen(kind or self._draw(is_first=number == 0))
            self._take_drained()
            self._await(lambda: self.driver.poll() is not None)
        finally:
            self.driver.kill()
            self.driver.wait()
        assert self.driver.returncode == 0, (self.folder / "driver.log").read_text()[-3000:]

    def _draw(self, *, is_first: bool) -> str:
        kinds = [kind for kind in EVENTS if not is_first or kind not in ("add", "driver")]
        return self.chance.choices(kinds, [EVENTS[kind] for kind in kinds])[0]

    def happen(self, kind: str) -> None:
        """One event; a node that was told to go is gone by the next one."""
        self._take_drained()
        if kind in TO_NODES and len(self.nodes.workers) == 1:
            kind = "add"
        if kind == "add" and len(self.nodes.workers) == MOST_NODES:
            kind = "encoder"
        if kind == "add":
            self.say(f"node {self.nodes.add()} is added")
        elif kind == "driver":
            self._kill_driver()
        else:
            self._disturb(kind, *self._await_busy())

    def _disturb(self, kind: str, process: int, node: Any) -> None:
        """Do something to an encoder that has a stream in hand, or to its node."""
        time.sleep(self.chance.uniform(0, STREAM_SECONDS / 2))
        name = node.node_id[:6]
        self.say(f"{kind} on node {name}, with encoder {process} at work")
        if kind == "encoder":
            os.kill(process, signal.SIGKILL)
        elif kind == "drain":
            self.nodes.drain(node, seconds=5)
            self.drained.append(node)
            return
        else:
            {"crash": self.nodes.kill, "vanish": self.nodes.vanish, "stop": self.nodes.stop}[kind](node)
        self.victims.add(process)

    def _kill_driver(self) -> None:
        self.say("the driver is killed and started again")
        self.driver.kill()
        self.driver.wait()
        self.driver = start_driver(self.folder, self.options)

    def _take_drained(self) -> None:
        for node in self.drained:
            if len(self.nodes.workers) == 1:
                self.say(f"node {self.nodes.add()} is added")
            encoders = [process for process, where in self.nodes.find_encoders().items() if where is node]
            self.say(f"drained node {self.nodes.vanish(node)} is gone, with encoders {encoders}")
        self.drained.clear()

    def _await_busy(self) -> tuple[int, Any]:
        """An encoder with a stream in hand, and its node."""
        found: dict[int, Any] = {}
        self._await(lambda: bool(found.update(find_busy(self.nodes, self.folder)) or found))
        return self.chance.choice(sorted(found.items(), key=itemgetter(0)))

    def _await_shards(self, goal: int) -> None:
        self._await(lambda: self.count_shards() >= goal or self.driver.poll() is not None)

    def _await(self, question: Callable[[], bool]) -> None:
        await_truth(question, self.read_driver)

    def read_driver(self) -> str:
        """The end of what drivers said."""
        return (self.folder / "driver.log").read_text()[-3000:]

    def count_shards(self) -> int:
        """Shards in the output."""
        return count_shards(self.folder)

    def say(self, text: str) -> None:
        """A line of the log, printed and kept."""
        line = f"{time.monotonic() - self.started:6.1f} s, {self.count_shards():3d} shards: {text}"
        print(line, flush=True)
        with open(self.folder / "events.log", "a") as log:
            log.write(line + "\n")

    def count_deaths(self) -> int:
        """Encoders that were killed with a stream in hand: they left their mark."""
        return sum((self.folder / "in-hand" / str(process)).exists() for process in self.victims)


def find_busy(nodes: Nodes, folder: Path) -> dict[int, Any]:
    """Encoders with a stream in hand, and their nodes."""
    marks = {int(path.name) for path in (folder / "in-hand").iterdir()}
    return {process: node for process, node in nodes.find_encoders().items() if process in marks}


def count_shards(folder: Path) -> int:
    """Shards in the output."""
    return sum(1 for _ in (folder / "out").rglob("0*-*.parquet"))


def await_truth(question: Callable[[], bool], explain: Callable[[], str] = str) -> None:
    """Poll until it holds; minutes are a failure."""
    wait_until(question, lambda: f"nothing happens; {explain()}", seconds=PATIENCE, every=0.02)
