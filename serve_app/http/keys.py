"""Who may call: bearer keys from a file or the environment, compared in constant time, rotated without a restart."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.http.paths import find_path
from serve_app.http.replies import Failure, make_reply
from t5enc.errors import ConfigError

LOG = logging.getLogger(__name__)
VARIABLE = "T5ENC_API_KEYS"
# Health, figures and documentation are for balancers, scrapers and readers: they tell nothing that a key guards.
PUBLIC = frozenset({"/", "/health", "/ping", "/metrics", "/docs", "/docs/oauth2-redirect", "/openapi.json"})
SHORTEST_KEY = 16
# The body was not read, so that the connection cannot be used again.
UNKNOWN = Failure(
    status=401,
    kind="Validation",
    message="Authorization: expected `Bearer KEY` with a known key",
    headers={"WWW-Authenticate": "Bearer", "Connection": "close"},
)


class KeyRing:
    """The keys that open a service, one or several; those of a file are read again whenever it changes.

    A file that is gone, empty or cannot be used opens to nobody: what was there before it no longer counts.
    """

    def __init__(self, path: str | None = None, values: Iterable[str] = ()) -> None:
        """`values` are keys beside those of the file; ConfigError for a key that is short, or a file without any."""
        self._path = Path(path).expanduser() if path else None
        self._fixed = digest_keys(values)
        self._seen: tuple[int, ...] | None = None
        self._digests = self._fixed
        if self._path is not None:
            self._digests = self._fixed + self._read()
            if self._digests == self._fixed:
                raise ConfigError(f"keys_file: expected a file with one key a line, got no key in {self._path}")

    @classmethod
    def from_environment(cls, path: str | None, environment: Mapping[str, str] = os.environ) -> KeyRing | None:
        """Keys of the file and of T5ENC_API_KEYS (between commas or spaces); None where there are neither."""
        values = environment.get(VARIABLE, "").replace(",", " ").split()
        return cls(path, values) if path or values else None

    def knows(self, key: str) -> bool:
        """Whether a key opens; how long it takes does not depend on how much of it is right."""
        digest = hashlib.sha256(key.encode()).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._current()]
        return any(matches)

    def _current(self) -> tuple[bytes, ...]:
        if self._path is not None and _stamp(self._path) != self._seen:
            self._digests = self._fixed
            try:
                self._digests += self._read()
            except ConfigError as error:  # nobody who calls can mend it, and the old keys are revoked
                LOG.error("%s; until it is mended, none of its keys opens", error)
        return self._digests

    def _read(self) -> tuple[bytes, ...]:
        """Keys of the file, none where there is no file; ConfigError where it cannot be used."""
        assert self._path is not None
        self._seen = _stamp(self._path)
        if self._seen is None:
            return ()
        try:
            lines = self._path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"keys_file: expected a file with one key a line, got: {error}") from error
        keys = (line.strip() for line in lines)
        return digest_keys(key for key in keys if key and not key.startswith("#"))


class RequireKeys:
    """ASGI middleware: 401 for whoever brings no known key, except where all are welcome."""

    def __init__(self, app: ASGIApp, keys: KeyRing) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or refuse it before its body is read."""
        if scope["type"] != "http" or is_public(scope) or self._knows(scope):
            await self._app(scope, receive, send)
            return
        await make_reply(scope, UNKNOWN)(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, key = given[0].decode("latin-1").partition(" ")
        return scheme.lower() == "bearer" and self._keys.knows(key.strip())


def is_public(scope: Scope) -> bool:
    """Whether a request needs no key."""
    return scope["method"] in ("GET", "HEAD") and find_path(scope) in PUBLIC


def digest_keys(keys: Iterable[str]) -> tuple[bytes, ...]:
    """Hashes of keys, all of one length; ConfigError for a key that could be guessed."""
    found = []
    for number, key in enumerate(keys, 1):
        if not key.isascii():
            raise ConfigError(f"key {number}: expected ASCII characters, which all clients send alike, got others")
        if len(key) < SHORTEST_KEY:
            raise ConfigError(f"key {number}: expected at least {SHORTEST_KEY} characters, got {len(key)}")
        found.append(hashlib.sha256(key.encode()).digest())
    return tuple(found)


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What changes when a file does; None where it is gone, the error's number where it cannot be looked at."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        return (error.errno or 0,)
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
