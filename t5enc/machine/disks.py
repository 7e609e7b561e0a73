"""Syncing on disks that do not all know it: network and FUSE mounts refuse it for folders, some for files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

# How disks say that they do not sync this kind of file: CIFS, WSL's, and many FUSE mounts.
NO_SYNC = frozenset(
    {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EBADF, errno.EISDIR}
)


def sync(descriptor: int) -> bool:
    """Wait until it is on the disk; False where the disk does not sync such files at all."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
        return False
    return True


def sync_path(path: Path) -> bool:
    """The same of a file, or of a folder's list of names; False, too, where it may be written and not be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        return False
    try:
        return sync(descriptor)
    finally:
        os.close(descriptor)
