"""How much chance is tried: `T5ENC_TEST_PROFILE` is `quick` in `make test`, and `all` in `make test-all`.

Hypothesis' profiles of these names are in conftest.py. The quick one draws the same every time, so that what fails is
what was changed; the other one looks further at every run.
"""

from __future__ import annotations

import os

PROFILE = os.environ.get("T5ENC_TEST_PROFILE", "quick")
# Examples of a law, and schedules of the commit protocol.
SCHEDULES = {"quick": 40, "all": 1_000}
