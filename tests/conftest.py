"""Fixtures shared by all tests, how much chance is tried, and what one process after the other must have."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import settings

from tests.profiles import PROFILE, SCHEDULES

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"
# What starts a Ray: two at once on a small machine are slower than one after the other, or time out.
RAY_FIXTURES = {"local_ray"}
RAY_MARKERS = ("cluster", "own_service")

# Time is a benchmark's matter.
for name, count in SCHEDULES.items():
    settings.register_profile(name, deadline=None, max_examples=count, derandomize=name == "quick")
settings.load_profile(PROFILE)

# Flex is compiled once for all tests of a worker and kept for the next ones; those about cold caches have their own.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(REPOSITORY / ".pytest_cache" / "inductor"))
# Ray gives way to everything else on the machine: beside another test its processes would take four times as long.
os.environ.setdefault("RAY_worker_niceness", "0")
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores, a thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Each its own: what one writes, the other never waits for.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] += f"/{os.environ['PYTEST_XDIST_WORKER']}"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """All that starts a Ray is one group: one of pytest-xdist's workers runs it, one test after the other."""
    for item in items:
        if RAY_FIXTURES & set(getattr(item, "fixturenames", ())) or any(map(item.get_closest_marker, RAY_MARKERS)):
            item.add_marker(pytest.mark.xdist_group("ray"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave what all tests have imported out of garbage collections, which take a second otherwise.

    And refuse a pytest-xdist that passes over the groups: two Rays at once make tests fail that are in order."""
    gc.collect()
    gc.freeze()
    if getattr(session.config.option, "loadgroup", False):
        grouped = [item.nodeid for item in session.items if item.get_closest_marker("xdist_group")]
        lost = [nodeid for nodeid in grouped if "@" not in nodeid]
        assert not lost, f"this pytest-xdist does not keep {len(lost)} tests of a group together: {lost[0]}, ..."


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real prompts and tokenizers beside a checkout; tests that want them skip elsewhere."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder `shared` with real tokenizers and prompts beside the checkout")
    return SHARED
