"""A bare Debian with the Python of this process in /usr/local: what the image's base is, made of what is here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RELEASE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
# What this Python's own modules are linked with.
LIBRARIES = (
    "ca-certificates,netbase,libbz2-1.0,libffi8,liblzma5,libncursesw6,libreadline8,libsqlite3-0,libssl3,libuuid1"
)
LEFT_OUT = ("site-packages", "test", "__pycache__", "*.a")


def make_bare_system(root: Path) -> Path:
    """The folder of the system."""
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={LIBRARIES}", RELEASE, str(root), MIRROR],
        check=True,
        capture_output=True,
    )
    copy_python(Path(sys.base_prefix), root / "usr" / "local")
    subprocess.run(["chroot", str(root), "ldconfig"], check=True)
    return root


def copy_python(source: Path, target: Path) -> None:
    """Interpreter, standard library and headers; nothing that was installed on top."""
    left_out = [f"--exclude={name}" for name in LEFT_OUT]
    packing = subprocess.Popen(
        ["tar", "-C", str(source), *left_out, "-cf", "-", "bin", "include", "lib"], stdout=subprocess.PIPE
    )
    subprocess.run(["tar", "-C", str(target), "-xf", "-"], stdin=packing.stdout, check=True)
    assert packing.wait() == 0
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (target / "lib" / version / "site-packages").mkdir(exist_ok=True)
    for name in ("python", "python3"):
        (target / "bin" / name).unlink(missing_ok=True)
        (target / "bin" / name).symlink_to(version)
