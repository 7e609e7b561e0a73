"""The path below the root, however the root is written."""

from __future__ import annotations

import pytest

from serve_app.http.keys import is_public
from serve_app.http.paths import find_path


@pytest.mark.parametrize(
    ("path", "root", "expected"),
    [
        ("/health", "", "/health"),
        ("/health", "/", "/health"),
        ("/t5/health", "/t5", "/health"),
        ("/t5/health", "/t5/", "/health"),
        ("/t5", "/t5", "/"),
        ("/t5/", "/t5", "/"),
        ("/health", "/t5", "/health"),
    ],
)
def test_a_path_is_that_below_the_root(path: str, root: str, expected: str) -> None:
    assert find_path({"path": path, "root_path": root}) == expected


@pytest.mark.parametrize("root", ["/", "/t5/"])
def test_health_needs_no_key_below_a_root_with_a_slash_at_its_end(root: str) -> None:
    path = f"{root}health"
    assert is_public({"method": "GET", "path": path, "root_path": root})
