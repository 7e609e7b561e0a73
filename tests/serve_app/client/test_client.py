"""What clients send and what they get back, and what they refuse before it is sent."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from serve_app.client import Client
from t5enc.errors import ConfigError, InputError, ServiceError
from tests.serve_app.client.conftest import TEXTS
from tests.serve_app.faulty_server import DIM, INFO, FaultyServer, read_back, refuse


def test_embeddings_come_back_as_the_server_made_them(client: Client, server: FaultyServer) -> None:
    answer = client.answer(["a red fox", "x" * 101])
    assert read_back(answer.embeddings) == ["a red fox", "x" * 101]
    assert answer.embeddings.values.shape == (110, DIM)
    assert answer.truncated.tolist() == [False, True]
    assert (answer.model, answer.fingerprint) == ("identity", "f1")
    assert server.requests == [{"texts": ["a red fox", "x" * 101], "truncate": True}]


def test_token_ids_are_sent_as_they_are(client: Client, server: FaultyServer) -> None:
    embeddings = client.encode_tokens([[5, 6, 1], torch.tensor([7, 1]).numpy()])
    assert embeddings.values[:, 0].tolist() == [5, 6, 1, 7, 1]
    assert embeddings.lengths.tolist() == [3, 2]
    assert server.requests == [{"ids": [[5, 6, 1], [7, 1]]}]


def test_no_texts_are_embeddings_of_none(client: Client) -> None:
    answer = client.answer([])
    assert answer.embeddings.values.shape == (0, DIM)
    assert (len(answer.embeddings), answer.model, answer.fingerprint) == (0, "identity", "f1")


def test_info_is_what_the_server_says(client: Client) -> None:
    assert client.info()["model_id"] == "identity"


def test_key_and_model_go_with_every_request(server: FaultyServer) -> None:
    with Client(server.url, "secret", model="other", max_texts=1) as client:
        client.encode(TEXTS)
        assert "secret" not in repr(client.options)
    assert server.keys == ["Bearer secret"] * 3
    assert {request["model"] for request in server.requests} == {"other"}


@pytest.mark.parametrize("missing", [{"model_dim": None}, {"model_dtype": None}, {"model_dtype": "load"}])
def test_no_texts_cannot_be_shaped_as_a_server_that_tells_no_width(
    client: Client, server: FaultyServer, missing: dict[str, Any]
) -> None:
    server.script = [refuse(200, INFO | missing)]
    with pytest.raises(ServiceError, match=r"/info: expected model_dim and model_dtype, .* got "):
        client.encode([])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"url": "localhost:8000"}, "url"),
        ({"url": "ftp://host"}, "url"),
        ({"url": "http://host:port"}, "url"),
        ({"deadline": 0}, "deadline"),
        ({"max_texts": 0}, "max_texts"),
        ({"key": "a key of a file\n"}, "key"),
        ({"key": "schlüssel"}, "key"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=f"^{expected}: expected"):
        Client(**{"url": "http://host", **options})


def test_what_is_no_text_is_refused_before_it_is_sent(client: Client, server: FaultyServer) -> None:
    with pytest.raises(InputError, match=r"texts\[1\]: expected a string, got int"):
        client.encode(["a", 5])  # type: ignore[list-item]
    with pytest.raises(InputError, match=r"ids\[0\]: expected a flat list"):
        client.encode_tokens([[0.5]])  # type: ignore[list-item]
    assert server.requests == []
