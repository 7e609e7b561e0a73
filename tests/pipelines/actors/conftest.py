"""A file of captions and who works on it, in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipelines.one_process import Setting, lay_out


@pytest.fixture
def setting(tmp_path: Path, no_ray: None) -> Setting:
    return lay_out(tmp_path)
