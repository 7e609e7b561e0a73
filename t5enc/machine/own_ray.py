"""What a Ray of one's own needs of this machine, found before it starts: a folder for its sockets, and a token.

Ray takes TMPDIR and the home folder as they are. A long TMPDIR (Slurm, PBS), a folder that is another user's, and a
container's user without a home each keep it from starting, in words about sockets or tokens.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from functools import cache
from pathlib import Path

from t5enc.errors import ConfigError

# What Ray adds to the path of its folder for the longest of its sockets.
LONGEST_NAME = len("/session_2026-11-29_14-09-04_616767_4194304/sockets/plasma_store.1")
ROOTS = ("/tmp", "/var/tmp", "/dev/shm")
TOKEN_NAMES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


class ModulePaths(list[str]):
    """Where Ray's workers look for modules first: the `_py_driver_sys_path` of a `JobConfig`, which Ray extends.

    Ray adds the working folder, whose random.py or datasets/ every worker would import; here that is left out unless
    this process looks there, too.
    """

    def extend(self, paths: Iterable[str]) -> None:
        """Add those of the paths where this process looks."""
        own = {os.path.realpath(path) for path in sys.path}
        super().extend(path for path in paths if os.path.realpath(path) in own)


def find_folder(environ: Mapping[str, str]) -> str:
    """Ray's own folder, where it can hold Ray's sockets, else one of this user's alone; ConfigError where none can."""
    asked = environ.get("RAY_TMPDIR") or environ.get("TMPDIR") or ROOTS[0]
    try:
        return _try_sockets(Path(asked).absolute() / "ray")
    except OSError as error:
        reason = error.strerror or error
    for root in ROOTS:
        with contextlib.suppress(OSError):
            return _try_sockets(_own_folder(Path(root)) / "ray")
    raise ConfigError(
        f"RAY_TMPDIR, TMPDIR: expected a folder with a short path for Ray's sockets, which this user can write to, "
        f"got {asked} ({reason}), and {', '.join(ROOTS)} do not serve either; set RAY_TMPDIR to one"
    )


def _own_folder(root: Path) -> Path:
    """A folder that is this user's alone; OSError where somebody else made it."""
    folder = root / f"ray-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder}: expected a folder of this user")
    return folder


def _try_sockets(folder: Path) -> str:
    """The folder, made if need be; OSError where no socket of the longest path can be made in it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = os.path.join(folder, f"t5enc-{secrets.token_hex(8)}".ljust(LONGEST_NAME - 1, "-"))
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.bind(path)
        except OSError as error:
            # Python's own error for a long path has no number.
            raise OSError(error.errno, error.strerror or str(error)) from error
        os.unlink(path)
    return str(folder)


def find_store_folder(folder: str) -> str | None:
    """Where Ray's objects lie: None for /dev/shm or what Ray chooses if that is small, `folder` where there is none."""
    return None if os.access("/dev/shm", os.W_OK | os.X_OK) else folder


def find_token(environ: Mapping[str, str]) -> dict[str, str]:
    """What Ray is to find in its environment, so that its processes know each other: nothing, or a token.

    As Ray does, a token is kept in the home folder for whoever wants to join from another shell; where that cannot
    be written, it is of this process alone.
    """
    if environ.get("RAY_AUTH_MODE", "token").lower() != "token" or any(environ.get(name) for name in TOKEN_NAMES):
        return {}
    token = _make_token()
    home = environ.get("HOME")
    return {} if home and _keep_token(Path(home, ".ray"), token) else {TOKEN_NAMES[0]: token}


@contextlib.contextmanager
def restoring_token(environ: MutableMapping[str, str]) -> Iterator[None]:
    """Take out of the environment, on the way out, a token that was not there before: others are not to inherit it."""
    was_there = TOKEN_NAMES[0] in environ
    try:
        yield
    finally:
        if not was_there:
            environ.pop(TOKEN_NAMES[0], None)


@cache
def _make_token() -> str:
    """One for all Rays that a process starts: Ray itself remembers the first that it finds."""
    return secrets.token_hex(32)


def _keep_token(folder: Path, token: str) -> bool:
    """Whether the folder holds a token, the one given if there was none."""
    path = folder / "auth_token"
    aside = folder / f".{secrets.token_hex(8)}"
    try:
        if path.exists():
            return bool(path.read_text().strip())
        folder.mkdir(parents=True, exist_ok=True)
        try:
            aside.touch(mode=0o600)
            aside.write_text(token)
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)  # of two that begin at once, both take the first one's
        finally:
            aside.unlink(missing_ok=True)
    except (OSError, ValueError):
        return False
    return True
