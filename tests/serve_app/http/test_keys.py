"""Keys: several, from two places, rotated while the service runs, and closed where anything is missing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from serve_app.http.keys import KeyRing, is_public
from t5enc.errors import ConfigError

OLD, NEW, THIRD = "old-key-0123456789", "new-key-0123456789", "env-key-0123456789"


def test_every_key_of_file_and_environment_opens(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"# of the team\n{OLD}\n\n  {NEW}  \n")
    ring = KeyRing.from_environment(str(tmp_path / "keys"), {"T5ENC_API_KEYS": f"{THIRD}, another-key-0123456"})
    assert ring is not None
    assert all(ring.knows(key) for key in (OLD, NEW, THIRD, "another-key-0123456"))
    assert not any(ring.knows(key) for key in ("", OLD[:-1], OLD + "0", "# of the team", "ключ-ключ-ключ-ключ"))


def test_without_keys_there_is_no_ring() -> None:
    assert KeyRing.from_environment(None, {}) is None
    assert KeyRing.from_environment(None, {"T5ENC_API_KEYS": " , "}) is None


def test_a_changed_file_counts_from_the_next_request(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(OLD)
    ring = KeyRing(str(path))
    (tmp_path / "next").write_text(NEW)
    os.replace(tmp_path / "next", path)
    assert ring.knows(NEW)
    assert not ring.knows(OLD)


def test_a_file_that_is_gone_opens_to_nobody_until_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(OLD)
    ring = KeyRing(str(path), [THIRD])
    path.unlink()
    assert not ring.knows(OLD)
    assert ring.knows(THIRD)
    path.write_text(OLD)
    assert ring.knows(OLD)


@pytest.mark.parametrize(
    "content", [f"{NEW}\nshort\n".encode(), b"\xff\xfe" + NEW.encode(), "schlüssel-schlüssel".encode()]
)
def test_a_file_that_cannot_be_used_revokes_the_old_keys_until_it_is_mended(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(OLD)
    ring = KeyRing(str(path), [THIRD])
    path.write_bytes(content)
    for _ in range(2):
        assert not ring.knows(OLD)
        assert not ring.knows(NEW)
        assert ring.knows(THIRD)
    path.write_text(NEW)
    assert ring.knows(NEW)


@pytest.mark.parametrize("kind", ["a folder that is a file", "a loop of links", "a folder"])
def test_a_path_that_cannot_be_looked_at_revokes_the_keys_of_its_file_alone_until_it_is_mended(
    kind: str, tmp_path: Path
) -> None:
    folder, path = tmp_path / "team", tmp_path / "team" / "keys"
    folder.mkdir()
    path.write_text(OLD)
    ring = KeyRing(str(path), [THIRD])
    path.unlink()
    spoil(path, kind)
    for _ in range(2):
        assert not ring.knows(OLD)
        assert ring.knows(THIRD)
    with pytest.raises(ConfigError, match=f"keys_file: .*{path}"):
        KeyRing(str(path))
    mend(path)
    path.write_text(NEW)
    assert ring.knows(NEW)


def spoil(path: Path, kind: str) -> None:
    """Put something where a file of keys was that none can be read from."""
    if kind == "a folder that is a file":
        path.parent.rmdir()
        path.parent.touch()
    elif kind == "a loop of links":
        path.symlink_to(path)
    else:
        path.mkdir()


def mend(path: Path) -> None:
    """Take away what `spoil` put there."""
    if path.parent.is_file():
        path.parent.unlink()
        path.parent.mkdir()
    elif path.is_symlink():
        path.unlink()
    else:
        path.rmdir()


def test_a_folder_that_may_not_be_entered_closes_its_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys"
    path.write_text(OLD)
    ring = KeyRing(str(path), [THIRD])

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patched:  # root may enter every folder
        patched.setattr(Path, "stat", refuse)
        patched.setattr(Path, "read_text", refuse)
        assert not ring.knows(OLD)
        assert ring.knows(THIRD)
    assert ring.knows(OLD)


def test_a_mark_at_the_start_of_a_file_is_no_part_of_its_key(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(OLD, encoding="utf-8-sig")
    assert KeyRing(str(tmp_path / "keys")).knows(OLD)


def test_a_short_key_and_a_file_without_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="key 1: expected at least 16 characters, got 5"):
        KeyRing(values=["short"])
    (tmp_path / "keys").write_text("# none yet\n")
    with pytest.raises(ConfigError, match="keys_file: expected a file with one key a line, got no key"):
        KeyRing(str(tmp_path / "keys"))
    with pytest.raises(ConfigError, match="keys_file: expected a file with one key a line, got no key"):
        KeyRing(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("method", "path", "root", "expected"),
    [
        ("GET", "/health", "", True),
        ("HEAD", "/", "", True),
        ("GET", "/m/tiny/health", "/m/tiny", True),
        ("GET", "/m/tiny", "/m/tiny", True),
        ("POST", "/", "", False),
        ("GET", "/info", "", False),
        ("GET", "/v1/models", "", False),
        ("GET", "/health/../info", "", False),
    ],
)
def test_only_health_and_documentation_are_public(method: str, path: str, root: str, expected: bool) -> None:
    assert is_public({"method": method, "path": path, "root_path": root}) is expected
