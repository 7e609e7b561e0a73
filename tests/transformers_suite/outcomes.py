"""What came of each test of a case: ok, skipped or failed, and why."""

from __future__ import annotations

import contextlib
import io
import traceback
import unittest
import warnings
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """A test's end; `why` is the reason it was skipped for, or the last line of its error."""

    state: str
    why: str = ""


class Recorder(unittest.TestResult):
    """Keeps the outcome of each test; one that fails in a part has failed."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: dict[str, Outcome] = {}
        self.tracebacks: dict[str, str] = {}

    def addSuccess(self, test: Any) -> None:
        self.outcomes.setdefault(test._testMethodName, Outcome("ok"))

    def addSkip(self, test: Any, reason: str) -> None:
        self.outcomes.setdefault(getattr(test, "test_case", test)._testMethodName, Outcome("skipped", reason))

    def addError(self, test: Any, err: Any) -> None:
        self._keep(test, err)

    def addFailure(self, test: Any, err: Any) -> None:
        self._keep(test, err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self._keep(test, err)

    def _keep(self, test: Any, err: Any) -> None:
        name = test._testMethodName
        lines = str(err[1]).strip().splitlines() or [""]
        self.outcomes[name] = Outcome("failed", f"{err[0].__name__}: {lines[0]}")
        self.tracebacks[name] = "".join(traceback.format_exception(*err))


def list_tests(case: type[unittest.TestCase], only: str = "") -> list[str]:
    """The names of a case's tests that contain `only`."""
    return [name for name in unittest.TestLoader().getTestCaseNames(case) if only in name]


def run_case(case: type[unittest.TestCase], names: list[str]) -> Recorder:
    """Run tests of a case one after the other, whatever they print or warn of."""
    recorder = Recorder()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for name in names:
            case(name).run(recorder)
    return recorder
