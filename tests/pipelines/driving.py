"""A driver in a process of its own, to be killed: `python -m tests.pipelines.driving FOLDER OPTIONS`.

Its encoders take a fixed time for every stream, so that kills land while something is computed; what each of them has
in hand stands in `FOLDER/in-hand` by process, and which units were encoded as suspects in `FOLDER/careful`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pipelines import EncodeJob, encode_parquet
from pipelines import encode as encode_module
from pipelines.actors.worker import SpanWorker
from t5enc.actor import EncoderActor

REPOSITORY = Path(__file__).resolve().parents[2]
STREAM_SECONDS = 0.25


class PacedWorker(SpanWorker):
    """Waits at every stream, and leaves a mark as long as it is in hand."""

    def started(self, actor: EncoderActor) -> None:
        super().started(actor)
        marks = Path(self.output).parent / "in-hand"
        encode_stream = actor.encoder.streams.encode

        def encode(texts: Any, *options: Any) -> Any:
            mark = marks / str(os.getpid())
            mark.touch()
            time.sleep(STREAM_SECONDS)
            encoded = encode_stream(texts, *options)
            mark.unlink()
            return encoded

        actor.encoder.streams.encode = encode  # type: ignore[method-assign]


def main(folder: Path, options: dict[str, Any]) -> None:
    """Run the job, and note what is encoded as a suspect."""
    encode_suspect = encode_module.encode_suspect

    def note_suspect(*arguments: Any) -> Any:
        (folder / "careful" / arguments[-1].id).touch()
        return encode_suspect(*arguments)

    encode_module.encode_suspect = note_suspect  # type: ignore[assignment]
    encode_module.SpanWorker = PacedWorker  # type: ignore[attr-defined]
    job = EncodeJob.from_mapping({"output": str(folder / "out"), "model": "builtin:tiny"} | options)
    print(encode_parquet(job))


def start_driver(folder: Path, options: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Start this script; what it says goes to `FOLDER/driver.log`."""
    for name in ("in-hand", "careful"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.pipelines.driving", str(folder), json.dumps(options)]
    with open(folder / "driver.log", "ab") as log:
        return subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)


if __name__ == "__main__":
    from tests.pipelines.driving import main as run  # what actors unpickle must have a name that they can import

    run(Path(sys.argv[1]), json.loads(sys.argv[2]))
