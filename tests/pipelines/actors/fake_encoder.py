"""A TextEncoder whose embeddings say what they are of, and which can be made to die; and an actor that owns it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from t5enc.embeddings import Embeddings
from t5enc.text.preparer import PreparedTexts
from t5enc.text.prompts import Prompt
from t5enc.text.streams import EncoderCounters
from t5enc.text_encoder import EncodedTexts

DIM = 2
MAX_LENGTH = 40
TEXTS_A_STREAM = 3
END = 1
TOO_LARGE = "activations left the range of float32"


class Death(BaseException):
    """The end of a process, as far as one can go on after it."""


class FakeEncoder:
    """A token is a byte, and its embedding is that byte; some texts fail, and some kill."""

    def __init__(self, *, killers: Collection[str] = (), failing: Collection[str] = ()) -> None:
        self.killers = {encode_bytes(text) for text in killers}
        self.failing = {encode_bytes(text) for text in failing}
        self.dim = DIM
        self.recipe = None
        self.options = SimpleNamespace(device="cpu", dtype="float32", attention="sdpa", token_budget=256)
        self.tokenizer = SimpleNamespace(fingerprint="bytes")
        self.counters = EncoderCounters()
        self.compiled_graphs = 0
        self.streams: list[list[str]] = []

    def prepare(self, texts: Sequence[str]) -> PreparedTexts:
        """Bytes and an end token, cut to MAX_LENGTH."""
        prompts = [Prompt.of(np.array(encode_bytes(text), np.int32)) for text in texts]
        lengths = np.array([len(text.encode()) + 1 for text in texts], np.int64)
        return PreparedTexts(prompts, lengths > MAX_LENGTH, lengths)

    def encode_ragged(
        self,
        prompts: Sequence[Prompt],
        *,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        on_stream: Callable[[list[int]], None] | None = None,
        on_rows: Callable[[torch.Tensor, NDArray[np.int64]], None] | None = None,
    ) -> EncodedTexts:
        """Streams of three texts in order."""
        failed: dict[int, str] = {}
        ids = [prompt.documents[0].ids for prompt in prompts]
        for start in range(0, len(ids), TEXTS_A_STREAM):
            places = list(range(start, min(start + TEXTS_A_STREAM, len(ids))))
            texts = [tuple(ids[place].tolist()) for place in places]
            if on_stream is not None:
                on_stream(places)
            self.streams.append([decode(text) for text in texts])
            if self.killers & set(texts):
                raise Death
            failed |= {place: TOO_LARGE for place, text in zip(places, texts, strict=True) if text in self.failing}
        flat = np.concatenate([np.empty(0, np.int32), *ids])
        values = torch.from_numpy(flat).to(dtype)[:, None].repeat(1, DIM)
        if on_rows is not None:
            on_rows(values.float(), np.arange(len(flat)))
        self.counters.useful_tokens += len(flat)
        return EncodedTexts(Embeddings.from_lengths(values, [len(text) for text in ids]), failed)


def encode_bytes(text: str) -> tuple[int, ...]:
    """What the fake encoder makes of a text."""
    return (*text.encode()[: MAX_LENGTH - 1], END)


def decode(ids: Sequence[float]) -> str:
    """The text that ids, or the values of an embedding, are of."""
    return bytes(int(value) for value in ids[:-1]).decode()


class FakeActor:
    """As much of an EncoderActor as a worker uses; work is done at once, on the caller's thread."""

    def __init__(self, encoder: FakeEncoder) -> None:
        self.encoder: Any = encoder
        self.busy_seconds = 0.0
        self.busy_cpu_seconds = 0.0

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """The result, or what was raised, in a future."""
        future: Future[Any] = Future()
        self.busy_seconds += 1.0
        try:
            future.set_result(function(self.encoder, *args))
        except BaseException as error:  # raised again by result()
            future.set_exception(error)
        return future
