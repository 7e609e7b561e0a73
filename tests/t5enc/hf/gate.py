"""A model's thread that runs only when a test says so, and an encoder whose embeddings are the ids themselves."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch

from t5enc.embeddings import Embeddings
from t5enc.text.prompts import Prompt, TokenIds
from t5enc.text_encoder import EncodedTexts

Ids = tuple[int, ...]
TOO_LARGE = "activations left the range of float32"
DIM = 2
# Seconds after which a test that hangs fails.
PATIENCE = 60.0


class Gate:
    """Stands for EncoderActor: `submit` only notes a turn; `hold` begins it, `release` ends it.

    Between the two the turn is inside the encoder, as long as the test likes.
    """

    def __init__(self, *, failing: Collection[Ids] = (), raising: Collection[Ids] = ()) -> None:
        """Texts that have no embedding, and texts for which the encoder raises."""
        self.failing = set(failing)
        self.raising = set(raising)
        self.error: Exception | None = None
        self.batches: list[list[Ids]] = []
        self.turns: deque[tuple[Callable[[Any], None], Future[None]]] = deque()
        self._inside = threading.Event()
        self._open = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_holding(self) -> bool:
        """Whether a turn has begun and not ended."""
        return self._thread is not None

    def submit(self, function: Callable[[Any], None]) -> Future[None]:
        """A turn more."""
        future: Future[None] = Future()
        self.turns.append((function, future))
        return future

    def hold(self) -> None:
        """Begin the next turn; returns when it is inside the encoder, or through where it had nothing to encode."""
        function, future = self.turns.popleft()
        self._inside.clear()
        self._open.clear()
        self._thread = threading.Thread(target=self._run, args=(function, future), daemon=True)
        self._thread.start()
        assert self._inside.wait(PATIENCE)

    def release(self) -> None:
        """Let the turn that is held run to its end."""
        assert self._thread is not None
        self._open.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self._thread = None

    def step(self) -> None:
        """One turn from beginning to end."""
        self.hold()
        self.release()

    def run_all(self) -> None:
        """All turns there are, and those that they ask for."""
        while self.turns:
            self.step()

    def encode_ragged(self, prompts: Sequence[Prompt], *, device: str) -> EncodedTexts:
        """What the batcher asks of an encoder."""
        assert device == "cpu"
        rows = [_read_kept(prompt) for prompt in prompts]
        batch = [tuple(kept.tolist()) for kept in rows]
        self.batches.append(batch)
        self._inside.set()
        self._open.wait()
        if self.error is not None:
            raise self.error
        if self.raising & set(batch):
            raise RuntimeError("no memory")
        values = torch.from_numpy(np.concatenate(rows)).float()[:, None].repeat(1, DIM)
        failed = {index: TOO_LARGE for index, text in enumerate(batch) if text in self.failing}
        return EncodedTexts(Embeddings.from_lengths(values, [len(text) for text in batch]), failed)

    def _run(self, function: Callable[[Any], None], future: Future[None]) -> None:
        try:
            function(self)
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(None)
        self._inside.set()


def _read_kept(prompt: Prompt) -> TokenIds:
    """The ids whose rows are kept, those of all documents end to end."""
    return np.concatenate([np.zeros(0, np.int32), *(document.ids[: document.kept] for document in prompt.documents)])
