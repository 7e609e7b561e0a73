"""Exports that are killed, each in a process of its own, as soon as so many of their files are there."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path


def main(output: str, to: str, kills: int) -> None:
    """Kill that many runs of one export at random moments, and check what is there after each of them.

    Processes are forked, so that the library is loaded once; nothing here may start a thread before.
    """
    import t5enc.trainers.export
    import t5enc.trainers.formats.musubi
    import t5enc.trainers.registry

    draw = random.Random(0)
    for _ in range(kills):
        wanted = draw.randrange(1, 40)
        there = count_files(to)
        child = os.fork()
        if child == 0:
            t5enc.trainers.export.export_embeddings("musubi", output, to, jobs=3)
            os._exit(0)
        while count_files(to) < there + wanted and os.waitpid(child, os.WNOHANG) == (0, 0):
            pass
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            pass  # it was through
        print(count_files(to))


def count_files(folder: str) -> int:
    """Files with a name that the trainer looks for."""
    return sum(1 for _ in Path(folder).glob("*_wan_te.safetensors"))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
