"""The path of a request as the application's own routes have it."""

from __future__ import annotations

from starlette.types import Scope


def find_path(scope: Scope) -> str:
    """Below the root that the application is mounted at, which may be written with a slash at its end; `/` for it."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "").rstrip("/")) or "/"
