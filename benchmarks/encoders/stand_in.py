"""An encoder whose cost is a fixed wait per token, so that two cores can host as many actors as are wanted.

Reading, tokenizing, packing, committing and reporting are the pipeline's own. Importable by Ray's processes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from pipelines.actors.worker import SpanWorker
from t5enc.actor import EncoderActor
from t5enc.text.prompts import Document

TOKENS_PER_SECOND = 1000.0


class WaitingWorker(SpanWorker):
    """Waits for as long as the stream's tokens take, and gives zeros."""

    def started(self, actor: EncoderActor) -> None:
        """As the real one, but for the encoder."""
        super().started(actor)
        encoder = actor.encoder

        def wait(documents: Sequence[Document], dtype: torch.dtype, _: object = None) -> tuple[Tensor, dict[int, str]]:
            tokens = sum(document.keys for document in documents)
            time.sleep(tokens / TOKENS_PER_SECOND)
            encoder.counters.streams += 1
            encoder.counters.useful_tokens += tokens
            encoder.counters.stream_tokens += tokens
            return torch.zeros(sum(len(document.ids) for document in documents), encoder.dim, dtype=dtype), {}

        encoder.streams.encode = wait  # type: ignore[method-assign, assignment]
