"""A Ray of one's own starts whatever TMPDIR, the home folder and other users are like, or one line says what to set."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from t5enc.errors import ConfigError
from t5enc.machine import own_ray
from t5enc.machine.own_ray import find_folder, find_store_folder, find_token, restoring_token

LONG = "project_465000123/slurm_job_tmp_4711081500/scratch_of_this_job_alone"


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short folder in the place of /tmp and its like."""
    with TemporaryDirectory(prefix="r", dir="/tmp") as folder:
        monkeypatch.setattr(own_ray, "LONGEST_NAME", 100 - len(folder) - len("/ray-4294967295/ray"))
        monkeypatch.setattr(own_ray, "ROOTS", (folder,))
        yield Path(folder)


def own(root: Path) -> str:
    return str(root / f"ray-{os.getuid()}" / "ray")


@pytest.mark.parametrize("names", [["TMPDIR"], ["RAY_TMPDIR"], ["RAY_TMPDIR", "TMPDIR"], []])
def test_a_folder_that_serves_is_taken_as_ray_would_take_it(root: Path, names: list[str]) -> None:
    environ = {name: str(root / name[:3]) for name in reversed(names)}
    assert find_folder(environ) == str((root / names[0][:3] if names else root) / "ray")
    assert [path for path in root.rglob("*") if not path.is_dir()] == [], "nothing of the trial is left"


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_folder_that_is_too_long_for_sockets_gives_way_to_one_of_this_user_alone(root: Path, name: str) -> None:
    assert find_folder({name: str(root / LONG)}) == own(root)
    assert Path(own(root)).parent.stat().st_mode & 0o777 == 0o700
    assert find_folder({name: str(root / LONG)}) == own(root), "and again"


def test_a_folder_that_may_not_be_written_gives_way(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "theirs").write_text("a file, which is as bad for root too")
    assert find_folder({"TMPDIR": str(root / "theirs")}) == own(root)
    monkeypatch.setattr(own_ray.socket.socket, "bind", refuse_below(root / "ray"))
    assert find_folder({}) == own(root), "another user's folder in /tmp"


def refuse_below(folder: Path) -> Any:
    bind = own_ray.socket.socket.bind

    def refuse(probe: Any, path: str) -> None:
        if Path(path).parent == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        bind(probe, path)

    return refuse


@pytest.mark.parametrize("kind", ["link", "folder of another"])
def test_a_folder_that_somebody_laid_out_for_this_user_is_not_taken(
    root: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "trap").mkdir()
    if kind == "link":
        Path(own(root)).parent.symlink_to(root / "trap")
    else:
        monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
        Path(own(root)).parent.mkdir()
    said = r"^RAY_TMPDIR, TMPDIR: expected a folder with a short path .* got /.*too long.*; set RAY_TMPDIR to one$"
    with pytest.raises(ConfigError, match=said):
        find_folder({"TMPDIR": str(root / LONG)})


def test_the_name_that_is_tried_is_as_long_as_rays_own() -> None:
    """Ray refuses more than 107 bytes; a process id has seven digits at most."""
    session = "session_2026-11-29_14-09-04_616767_4194304"
    assert len(f"/{session}/sockets/plasma_store") <= own_ray.LONGEST_NAME


def test_objects_lie_beside_sockets_where_there_is_no_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    assert find_store_folder("/tmp/ray") is None
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert find_store_folder("/tmp/ray") == "/tmp/ray"


def test_a_token_is_kept_in_the_home_folder_and_stays(tmp_path: Path) -> None:
    path = tmp_path / ".ray" / "auth_token"
    assert find_token({"HOME": str(tmp_path)}) == {}
    token = path.read_text()
    assert len(token) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    assert find_token({"HOME": str(tmp_path), "RAY_AUTH_MODE": "token"}) == {}
    assert path.read_text() == token
    assert [entry.name for entry in path.parent.iterdir()] == ["auth_token"]


@pytest.mark.parametrize("home", [None, "", "nowhere/of/a/file", "empty"])
def test_without_a_home_that_can_keep_a_token_ray_gets_one_of_its_own(tmp_path: Path, home: str | None) -> None:
    (tmp_path / "nowhere").write_text("a file")
    (tmp_path / "empty" / ".ray").mkdir(parents=True)
    (tmp_path / "empty" / ".ray" / "auth_token").touch()
    environ = {} if home is None else {"HOME": home and str(tmp_path / home)}
    found = find_token(environ)
    assert list(found) == ["RAY_AUTH_TOKEN"]
    assert len(found["RAY_AUTH_TOKEN"]) == 64
    assert found == find_token(environ), "Ray remembers the first one that it finds in a process"


@pytest.mark.parametrize("before", [{}, {"RAY_AUTH_TOKEN": "mine"}])
def test_a_token_that_was_lent_does_not_stay_in_the_environment(before: dict[str, str]) -> None:
    environ = dict(before)
    with restoring_token(environ):
        environ |= find_token(environ)
        assert environ["RAY_AUTH_TOKEN"]
    assert environ == before


def test_a_home_whose_disk_is_full_keeps_no_half_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(Path, "write_text", fail)
    assert list(find_token({"HOME": str(tmp_path)})) == ["RAY_AUTH_TOKEN"]
    assert list((tmp_path / ".ray").iterdir()) == []


@pytest.mark.parametrize(
    "given", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "mine"}, {"RAY_AUTH_TOKEN_PATH": "/run/token"}]
)
def test_what_the_user_set_is_left_alone(given: dict[str, str], tmp_path: Path) -> None:
    assert find_token(given | {"HOME": str(tmp_path)}) == {}
    assert list(tmp_path.iterdir()) == []
