"""A worker whose encoder dies on certain captions, or now and then; importable by Ray's processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.actors.tokenizers import TokenizerActor
from pipelines.actors.worker import SpanWorker
from t5enc.actor import EncoderActor
from t5enc.options import EncoderOptions

POISON = "this caption kills the process that encodes it"


class PoisonedWorker(SpanWorker):
    """Kills its process when a stream holds the poisonous caption."""

    def started(self, actor: EncoderActor) -> None:
        super().started(actor)
        poison = actor.encoder.tokenize([POISON]).ids[0]
        encode_stream = actor.encoder.streams.encode

        def encode(documents: Any, *options: Any) -> Any:
            if any(np.array_equal(document.ids, poison) for document in documents):
                os.kill(os.getpid(), signal.SIGKILL)
            return encode_stream(documents, *options)

        actor.encoder.streams.encode = encode  # type: ignore[method-assign]


class DyingWorker(SpanWorker):
    """Kills its process at every third stream, until a folder holds `LIVES` marks."""

    LIVES = 2

    def started(self, actor: EncoderActor) -> None:
        super().started(actor)
        marks = Path(self.output).parent / "deaths"
        marks.mkdir(exist_ok=True)
        encode_stream = actor.encoder.streams.encode
        calls = 0

        def encode(texts: Any, *options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls % 3 == 0 and len(list(marks.iterdir())) < self.LIVES:
                (marks / f"{os.getpid()}-{calls}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return encode_stream(texts, *options)

        actor.encoder.streams.encode = encode  # type: ignore[method-assign]


class BrokenWorker(DyingWorker):
    """Kills its process at the third stream; the next one cannot load the model."""

    LIVES = 1

    def starting(self) -> None:
        super().starting()
        if (Path(self.output).parent / "deaths").exists():
            raise OSError("the weights are gone")


class UnloadableWorker(SpanWorker):
    """Kills its process before the model is loaded."""

    def starting(self) -> None:
        import time

        super().starting()
        time.sleep(0.2)  # lets the note reach the ledger: the death that follows is not to overtake it
        os.kill(os.getpid(), signal.SIGKILL)


class Deadly:
    """Prepares texts, but for the poisonous caption, which kills the process that tokenizes it."""

    def __init__(self, preparer: Any) -> None:
        self.preparer = preparer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.preparer, name)

    def prepare(self, texts: Sequence[str]) -> Any:
        if POISON in texts:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.preparer.prepare(texts)


class PoisonedTokenizer(TokenizerActor):
    """Kills its process when the poisonous caption is tokenized."""

    def __init__(self, options: EncoderOptions, worker: SpanWorker) -> None:
        super().__init__(options, worker)
        self.preparer: Any = Deadly(self.preparer)


class PoisonedTokensWorker(SpanWorker):
    """The same for the processes of suspects, which tokenize with care."""

    def started(self, actor: EncoderActor) -> None:
        super().started(actor)
        encoder: Any = actor.encoder
        encoder.preparer = Deadly(encoder.preparer)
