"""A peer: transformers' encoder behind Ray Serve as its pages have it, with `@serve.batch` and padding.

`python -m benchmarks.service.plain_serve MODEL TOKENIZER THREADS PORT` serves until SIGTERM.
"""

from __future__ import annotations

import logging
import signal
import sys

import ray
import torch
from ray import serve
from safetensors.torch import save
from starlette.requests import Request
from starlette.responses import Response
from torch import Tensor

# Prompts a batch, as the benchmarks of the engine batch transformers.
LARGEST_BATCH = 16
SIGNALS = (signal.SIGTERM, signal.SIGINT)


@serve.deployment(max_ongoing_requests=256)
class PlainEncoder:
    """Texts padded to the longest of their batch, and cut to their lengths after."""

    def __init__(self, model: str, tokenizer: str, threads: int) -> None:
        from transformers import AutoTokenizer, T5EncoderModel

        torch.set_num_threads(threads)
        self._tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        self._model = T5EncoderModel.from_pretrained(model).eval()

    @serve.batch(max_batch_size=LARGEST_BATCH, batch_wait_timeout_s=0.005)
    async def encode(self, texts: list[str]) -> list[Tensor]:
        """One (tokens, M) a text."""
        batch = self._tokenizer(texts, padding=True, truncation=True, max_length=512, return_tensors="pt")
        with torch.inference_mode():
            hidden = self._model(**batch).last_hidden_state
        lengths = batch["attention_mask"].sum(1).tolist()
        return [text[:length].clone() for text, length in zip(hidden, lengths, strict=True)]

    async def __call__(self, request: Request) -> Response:
        """One prompt's embeddings as safetensors."""
        text = (await request.json())["texts"][0]
        return Response(save({"values": await self.encode(text)}))


def main(model: str, tokenizer: str, threads: str, port: str) -> None:
    """Serve until a signal."""
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    serve.run(PlainEncoder.bind(model, tokenizer, int(threads)), logging_config={"enable_access_log": False})
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    print("ready", flush=True)
    signal.sigwait(SIGNALS)
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
