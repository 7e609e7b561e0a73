"""Exports that are killed, each in a process of its own, as soon as so many of their files are there."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path


def main(name: str, ending: str, output: str, to: str, kills: int, most: int) -> None:
    """Kill that many runs of one export after up to `most` files with that ending, and say how many are there then.

    Processes are forked, so that the library is loaded once; nothing here may start a thread before.
    """
    import t5enc.trainers.export
    from t5enc.trainers.registry import build_format

    made, draw = build_format(name), random.Random(0)
    for _ in range(kills):
        wanted = draw.randrange(1, most)
        there = count_files(to, ending)
        child = os.fork()
        if child == 0:
            t5enc.trainers.export.export_embeddings(made, output, to, jobs=3)
            os._exit(0)
        while count_files(to, ending) < there + wanted and os.waitpid(child, os.WNOHANG) == (0, 0):
            pass
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            pass  # it was through
        print(count_files(to, ending))


def count_files(folder: str, ending: str) -> int:
    """Files with a name that the trainer looks for."""
    return sum(1 for _ in Path(folder).glob(f"*{ending}"))


if __name__ == "__main__":
    main(*sys.argv[1:5], int(sys.argv[5]), int(sys.argv[6]))
