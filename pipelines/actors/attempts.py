"""What a process says of the units in its hands, so that the ledger can tell which one killed it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipelines.commit.counts import Cost
from pipelines.commit.records import UnitRecord
from pipelines.nodes.leaving import find_node
from pipelines.plan.units import Unit
from pipelines.progress.findings import Findings
from pipelines.progress.places import find_place


class Attempts:
    """One process and its ledger; `is_leaving` once the ledger has said so of this node."""

    def __init__(self, ledger: Any) -> None:
        self.ledger = ledger
        self.is_leaving = False

    def find_suspects(self, units: Iterable[Unit]) -> list[str]:
        """Ids of those that were in hand at too many deaths."""
        import ray

        return ray.get(self.ledger.find_suspects.remote([unit.id for unit in units]))  # type: ignore[no-any-return]

    def begin(self, unit: Unit) -> bool:
        """Noted before any of it is read: reading and tokenizing can kill, too. False where this node is leaving."""
        import ray

        self.is_leaving |= not ray.get(self.ledger.begin.remote(unit.id, find_node()))
        return not self.is_leaving

    def hand_over(self, unit: Unit) -> None:
        """It goes to a process that begins it again: whoever dies from now on, it was not in hand here."""
        import ray

        ray.get(self.ledger.hand_over.remote(unit.id, find_node()))

    def forget(self, unit: Unit) -> None:
        """It cannot be read, and so has not killed."""
        self.ledger.forget.remote(unit.id)

    def note(self, unit: Unit, captions: list[int]) -> None:
        """These captions of a suspect are about to be computed."""
        import ray

        ray.get(self.ledger.note.remote(unit.id, captions))

    def end(self, unit: Unit, record: UnitRecord, cost: Cost, findings: Findings) -> None:
        """It is committed."""
        import ray

        end = self.ledger.end.remote(unit.id, find_place().actor, record.counts, cost, findings, find_node())
        self.is_leaving |= not ray.get(end)
