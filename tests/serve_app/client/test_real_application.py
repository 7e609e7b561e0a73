"""The client against the real application: what the encoder gives, what is cut, which models there are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serve_app.client import Client
from t5enc.checkpoint.builtin import sample_captions
from t5enc.errors import InputError
from t5enc.text_encoder import TextEncoder
from tests.serve_app.client.conftest import TEXTS
from tests.t5enc.reference import ROUNDING, distance


@pytest.fixture(scope="module")
def real() -> Iterator[str]:
    """The address of the real application, with two models of different limits."""
    from serve_app.api.application import make_http
    from serve_app.served.models import Models
    from serve_app.served.service import ModelService, ServiceLimits
    from t5enc.options import EncoderOptions
    from tests.serve_app.serving import serve

    options = EncoderOptions(model="builtin:tiny")
    services = [ModelService(f"m{size}", options, ServiceLimits(max_length=size, max_texts=64)) for size in (512, 16)]
    with serve(make_http(Models(services))) as url:
        yield url


def test_the_service_gives_what_the_encoder_gives(real: str) -> None:
    captions = sample_captions()
    encoder = TextEncoder.from_pretrained("builtin:tiny")
    with Client(real) as client:
        found = client.encode(captions)
        ids = encoder.tokenize(captions[:50]).ids
        assert distance(client.encode_tokens(ids), found[:50]) < ROUNDING
        assert client.info()["model_dim"] == found.dim == client.encode([]).dim
    assert distance(found, encoder.encode(captions)) < ROUNDING


def test_the_service_says_which_texts_it_cut(real: str) -> None:
    texts = ["short", "a long one " * 20]
    with Client(real, model="m16") as client:
        answer = client.answer(texts)
        assert answer.truncated.tolist() == [False, True]
        assert answer.embeddings.lengths[1] == 16
        assert answer.model == "m16"
        assert client.info()["max_input_length"] == 16
        with pytest.raises(InputError, match=r"422: texts\[1\]: expected at most 16 tokens"):
            client.encode(texts, truncate=False)


def test_a_model_that_is_not_served_is_named(real: str) -> None:
    with Client(real, model="m9") as client, pytest.raises(InputError, match="404: model: expected one of m512, m16"):
        client.encode(TEXTS)
