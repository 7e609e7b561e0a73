"""A pytest plugin: after `--time-limit` seconds no other test begins, and what was not reached is said.

A test that has begun is waited for, and what tests share is taken down in good order.
"""

from __future__ import annotations

import time

import pytest

REASON = "not reached in the time that was given"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the option."""
    parser.addoption("--time-limit", type=float, metavar="SECONDS", help="skip what has not begun by then")


def pytest_configure(config: pytest.Config) -> None:
    """Start the clock, in every process that runs tests."""
    if (seconds := config.getoption("--time-limit")) is not None:
        config.pluginmanager.register(TimeLimit(float(seconds)))


class TimeLimit:
    """Skips what has not begun after `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        """Before anything is set up for a test."""
        if time.monotonic() >= self._end:
            pytest.skip(REASON)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name them."""
        skipped = terminalreporter.stats.get("skipped", [])
        names = [report.nodeid for report in skipped if REASON in str(report.longrepr)]
        if names:
            terminalreporter.section(f"{len(names)} tests {REASON}, {self._seconds:.0f} s")
            terminalreporter.line("\n".join(names))
