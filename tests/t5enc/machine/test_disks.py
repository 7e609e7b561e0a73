"""Disks that do not sync are written all the same; one that fails is not."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from t5enc.checkpoint.output_folder import commit_files
from t5enc.errors import OutputError
from t5enc.machine.disks import NO_SYNC, sync_path


def refuse_syncs(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)


@pytest.mark.parametrize("number", sorted(NO_SYNC))
def test_a_checkpoint_is_written_to_a_disk_that_does_not_sync(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_syncs(monkeypatch, number)
    assert not sync_path(tmp_path)
    with commit_files(tmp_path / "model", ["*.safetensors"]) as aside:
        (aside / "config.json").write_text("{}")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["config.json"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_sync_that_fails_is_told(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_syncs(monkeypatch, number)
    with pytest.raises(OutputError, match=os.strerror(number)), commit_files(tmp_path / "model", []) as aside:
        (aside / "config.json").write_text("{}")
    assert not (tmp_path / "model").exists()


def test_a_disk_that_syncs_does(tmp_path: Path) -> None:
    assert sync_path(tmp_path)
