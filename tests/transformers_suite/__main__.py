"""transformers' own model tests of its encoders and of ours, side by side.

    python -m tests.transformers_suite [--sdist FILE] [--family t5] [--only NAME] [--show]

Exits 1 where one of ours fails and transformers' own does not.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.transformers_suite.sdist import NoDistributionError, find_distribution, import_tests, unpack_tests

CACHE = Path(__file__).resolve().parents[2] / ".pytest_cache" / "transformers"
NO_DISTRIBUTION = 77  # what says "skipped" to who runs tests


def main() -> int:
    arguments = read_arguments()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        distribution = arguments.sdist or find_distribution(CACHE)
    except NoDistributionError as error:
        print(error, file=sys.stderr)
        return NO_DISTRIBUTION
    with tempfile.TemporaryDirectory() as folder:
        unpack_tests(distribution, Path(folder))
        return run(Path(folder), arguments)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.transformers_suite", description=__doc__.splitlines()[0])
    parser.add_argument("--sdist", type=Path, help="transformers' source distribution; fetched otherwise")
    parser.add_argument("--family", choices=("t5", "mt5", "umt5"), help="one family instead of all")
    parser.add_argument("--only", default="", help="tests whose names contain this")
    parser.add_argument("--show", action="store_true", help="the tracebacks of ours that fail")
    return parser.parse_args()


def run(folder: Path, arguments: argparse.Namespace) -> int:
    """Both cases of each family; the table, and whether ours has failed where transformers' has not."""
    common = import_tests(folder)
    from tests.transformers_suite.cases import ENCODERS, make_pair
    from tests.transformers_suite.outcomes import list_tests, run_case

    worse = 0
    for family in [arguments.family] if arguments.family else ENCODERS:
        cases = make_pair(common, family)
        names = list_tests(cases["t5enc"], arguments.only)
        theirs, ours = (run_case(cases[side], names) for side in ("transformers", "t5enc"))
        for name in names:
            left, right = theirs.outcomes[name], ours.outcomes[name]
            is_worse = right.state == "failed" and left.state != "failed"
            worse += is_worse
            why = right.why if right.state == "failed" else left.why
            print(f"{family:5} {name:75} {left.state:8} {right.state:8} {'WORSE ' * is_worse}{why[:120]}", flush=True)
            if arguments.show and is_worse:
                print(ours.tracebacks[name])
        for side, found in (("transformers", theirs), ("t5enc", ours)):
            print(family, side, dict(Counter(outcome.state for outcome in found.outcomes.values())))
    print(f"{worse} tests fail with t5enc's classes and not with transformers'")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
