"""Which server a client asks, and how patiently: checked before the first request."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import httpx2

from serve_app.client.retries import Timing
from t5enc.errors import ConfigError

# What may stand in a header: a key read from a file often ends in a line end.
KEY = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """Which server, and how patiently it is asked. Times are in seconds."""

    url: str
    key: str | None = field(default=None, repr=False)
    model: str | None = None
    timeout: float = 60.0
    deadline: float = 300.0
    max_texts: int = 32
    max_tokens: int = 4096
    parallel: int = 4
    timing: Timing = field(default_factory=Timing, repr=False)

    def __post_init__(self) -> None:
        for name in ("timeout", "deadline", "max_texts", "max_tokens", "parallel"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: expected more than 0, got {getattr(self, name)}")
        try:
            url = httpx2.URL(self.url)
        except httpx2.InvalidURL as error:
            raise ConfigError(f"url: expected http://HOST[:PORT][/PATH], got {self.url!r} ({error})") from error
        if url.scheme not in ("http", "https") or not url.host:
            raise ConfigError(f"url: expected http://HOST[:PORT][/PATH], got {self.url!r}")
        if self.key and not KEY.fullmatch(self.key):
            raise ConfigError(
                f"key: expected ASCII without spaces or line ends, got other among {len(self.key)} characters"
            )

    @property
    def headers(self) -> dict[str, str]:
        """What goes with every request."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}
