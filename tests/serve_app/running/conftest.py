"""The service that these tests share, and services of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.serve_app.running.service import KEY, Service


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service that the tests of this folder share, with a key."""
    pytest.importorskip("ray.serve", reason="needs ray[serve]")
    folder = tmp_path_factory.mktemp("service")
    (folder / "keys").write_text(f"# of the tests\n{KEY}\n")
    started = Service(folder, "--keys-file", str(folder / "keys"))
    yield started
    started.stop()


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Start a service of one's own, with options of `t5enc serve`; it ends with the test at the latest."""
    started: list[Service] = []

    def start(*options: str, settings: str = "", environment: Mapping[str, str] | None = None) -> Service:
        started.append(Service(tmp_path, *options, settings=settings, environment=environment))
        return started[-1]

    yield start
    for service in started:
        service.stop()
