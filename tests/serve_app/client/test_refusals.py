"""What a server refuses or admits is an error in its words and not asked again; answers that do not fit are none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from serve_app.client import Client
from t5enc.errors import ConfigError, InputError, PrecisionError, ServiceError
from tests.serve_app.client.conftest import TEXTS
from tests.serve_app.faulty_server import FaultyServer, answer_as, answer_rightly, encode_identity, refuse, send


def test_what_is_missing_in_the_services_own_words_is_not_asked_for_again(client: Client, server: FaultyServer) -> None:
    server.script = [refuse(404, {"error": "model: expected one of tiny, got 'huge'", "error_type": "Validation"})]
    with pytest.raises(InputError, match="404: model: expected one of tiny"):
        client.encode(TEXTS)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "content",
    [
        {"error": "texts[1]: 900 tokens", "error_type": "Validation"},
        {"error": {"message": "texts[1]: 900 tokens", "type": "invalid_request_error"}},
        {"detail": "texts[1]: 900 tokens"},
    ],
    ids=["TEI", "OpenAI", "FastAPI"],
)
def test_a_refusal_is_an_input_error_in_the_servers_words(
    client: Client, server: FaultyServer, content: object
) -> None:
    server.script = [refuse(422, content)]
    with pytest.raises(InputError, match=r"\(texts 0 to 2\): 422: texts\[1\]: 900 tokens"):
        client.encode(TEXTS, truncate=False)
    assert server.requests == [{"texts": TEXTS, "truncate": False}]


def test_a_key_that_is_not_accepted_is_a_config_error(client: Client, server: FaultyServer) -> None:
    server.script = [refuse(401, {})]
    with pytest.raises(ConfigError, match="401"):
        client.encode(TEXTS)
    assert len(server.requests) == 1


def test_texts_that_the_model_cannot_compute_are_named_by_their_place_in_the_whole_list(server: FaultyServer) -> None:
    reason = "activations left the range of float16"
    failed = {"error": "1 text(s)", "error_type": "Backend", "failed": {"1": reason}}

    def answer(handler: Any, content: dict[str, Any]) -> None:
        behaviour = refuse(424, failed) if "bad" in content["texts"] else answer_rightly
        behaviour(handler, content)

    server.answer = answer
    with Client(server.url, max_texts=2) as client, pytest.raises(PrecisionError) as error:
        client.encode(["a", "b", "c", "bad", "d"])
    assert error.value.failed == {3: reason}
    assert str(error.value) == f"1 text(s) could not be encoded: texts[3]: {reason}"
    assert sum("bad" in request["texts"] for request in server.requests) == 1


@pytest.mark.parametrize("failed", [{}, [], "3", {"three": "no"}, None])
def test_a_424_that_names_no_texts_is_a_service_error(client: Client, server: FaultyServer, failed: object) -> None:
    server.script = [refuse(424, {"error": "Inference failed", "error_type": "Backend", "failed": failed})]
    with pytest.raises(ServiceError, match="424: Inference failed"):
        client.encode(TEXTS)


@pytest.mark.parametrize("status", [424, 500])
def test_a_fault_that_the_server_admits_is_not_tried_again(client: Client, server: FaultyServer, status: int) -> None:
    server.script = [refuse(status, {"error": "bug"})]
    with pytest.raises(ServiceError, match=f"{status}: bug"):
        client.encode(TEXTS)
    assert len(server.requests) == 1


def test_an_answer_for_other_texts_is_refused(client: Client, server: FaultyServer) -> None:
    server.script = [send(encode_identity({"texts": ["only one"]}))]
    with pytest.raises(ServiceError, match="of 3 texts"):
        client.encode(TEXTS)


def test_an_answer_without_its_tensors_is_refused(client: Client, server: FaultyServer) -> None:
    from safetensors.torch import save

    server.script = [send(save({"embeddings": torch.zeros(3, 4)}))]
    with pytest.raises(ServiceError, match="expected tensors values, offsets and truncated, got embeddings"):
        client.encode(TEXTS)


def test_offsets_that_do_not_fit_the_values_are_refused(client: Client, server: FaultyServer) -> None:
    from safetensors.torch import save

    tensors = {"values": torch.zeros(5, 4), "offsets": torch.tensor([0, 4, 2, 5]), "truncated": torch.zeros(3)}
    server.script = [send(save(tensors))]
    with pytest.raises(ServiceError, match="offsets that rise from 0 to 5"):
        client.encode(TEXTS)


def test_embeddings_of_two_models_are_not_mixed(server: FaultyServer) -> None:
    server.script = [answer_as("f1"), answer_as("f2")]
    with Client(server.url, max_texts=1, parallel=1) as client, pytest.raises(ServiceError, match="f1 to f2"):
        client.encode(["a", "b"])
