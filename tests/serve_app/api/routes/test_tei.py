"""TEI's routes: its bodies, its answers, its errors. One vector a text is the normalised mean of its tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.serve_app.in_process import LIMITS, LONG, NAME, ask, encode_alone, load_service, post

TEXTS = ["a red bird", "two dogs on a beach at night", "Ü 🐦"]
ROUNDING = 1e-5


def pool_alone(texts: list[str], *, normalize: bool = True) -> torch.Tensor:
    """The mean over each text's tokens from the bare encoder, by hand."""
    means = torch.stack([torch.tensor(text).mean(0) for text in encode_alone(texts)])
    return F.normalize(means, dim=-1) if normalize else means


def check_close(found: object, expected: torch.Tensor) -> None:
    torch.testing.assert_close(torch.tensor(found), expected, atol=ROUNDING, rtol=ROUNDING)


@pytest.mark.parametrize("path", ["/embed", "/", "/invocations"])
def test_embed_gives_the_normalised_mean_of_each_texts_tokens(path: str) -> None:
    answer = post(path, {"inputs": TEXTS})
    assert answer.status_code == 200
    check_close(answer.json(), pool_alone(TEXTS))
    check_close(torch.tensor(answer.json()).norm(dim=1).tolist(), torch.ones(len(TEXTS)))


def test_vectors_keep_their_length_where_normalize_is_false() -> None:
    check_close(post("/embed", {"inputs": TEXTS, "normalize": False}).json(), pool_alone(TEXTS, normalize=False))


def test_a_single_input_gives_a_list_of_one_vector_and_a_list_of_ids_is_one_input() -> None:
    (vector,) = post("/embed", {"inputs": TEXTS[0]}).json()
    ids = [piece["id"] for piece in post("/tokenize", {"inputs": TEXTS[0]}).json()[0]]
    for inputs in (ids, [ids]):
        check_close(post("/embed", {"inputs": inputs}).json(), torch.tensor([vector]))


def test_embed_all_gives_every_tokens_embedding() -> None:
    for found, expected in zip(post("/embed_all", {"inputs": TEXTS}).json(), encode_alone(TEXTS), strict=True):
        check_close(found, torch.tensor(expected))


@pytest.mark.parametrize("truncate", [None, True])
def test_texts_over_the_limit_are_cut_as_tei_does_by_default(truncate: bool | None) -> None:
    answer = post("/embed_all", {"inputs": LONG, "truncate": truncate})
    assert len(answer.json()[0]) == LIMITS.max_length
    assert answer.headers["x-truncated-texts"] == "1"


@pytest.mark.parametrize("path", ["/embed", "/embed_all", "/"])
def test_texts_over_the_limit_are_422_where_truncate_is_false(path: str) -> None:
    answer = post(path, {"inputs": ["a", LONG], "truncate": False})
    assert (answer.status_code, answer.json()["error_type"]) == (422, "Validation")
    assert "texts[1]: expected at most 64 tokens" in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "message"),
    [
        ("/embed", {"inputs": []}, 400, "Empty", "`inputs` cannot be empty"),
        ("/embed", {"inputs": ["a"] * 9}, 422, "Validation", "batch size 9 > maximum allowed batch size 8"),
        ("/embed", {}, 422, "Validation", "inputs: expected, and not there"),
        ("/embed", {"inputs": ["a", 1]}, 422, "Validation", "got a list of integer and string"),
        ("/embed", {"inputs": "a", "prompt_name": "query"}, 422, "Validation", "prompt_name: expected none"),
        ("/embed", {"inputs": "a", "dimensions": 8}, 422, "Validation", "dimensions: expected none or the model's 64"),
        ("/embed", {"inputs": "a", "truncation_direction": "Up"}, 422, "Validation", "truncation_direction: Input"),
        ("/embed", {"inputs": "a", "model": "gpt"}, 404, "Validation", "model: expected one of tiny, got 'gpt'"),
        ("/tokenize", {"inputs": []}, 400, "Empty", "`inputs` cannot be empty"),
        ("/tokenize", {"inputs": [1]}, 422, "Validation", "inputs: expected a text"),
        ("/decode", {"ids": []}, 400, "Empty", "`ids` cannot be empty"),
        ("/decode", {"ids": [-1]}, 422, "Validation", "ids: expected ids from 0 to 999, got -1"),
        ("/decode", {"ids": ["a"]}, 422, "Validation", "ids: expected"),
        (
            "/similarity",
            {"inputs": {"source_sentence": "a", "sentences": []}},
            400,
            "Empty",
            "`sentences` cannot be empty",
        ),
    ],
)
def test_errors_have_teis_statuses_and_shape(
    path: str, body: dict[str, Any], status: int, kind: str, message: str
) -> None:
    answer = post(path, body)
    assert (answer.status_code, answer.json()["error_type"]) == (status, kind)
    assert set(answer.json()) == {"error", "error_type"}
    assert message in answer.json()["error"]


def test_unknown_fields_are_passed_over_as_tei_does() -> None:
    assert post("/embed", {"inputs": "a", "parameters": {}, "raw_scores": True}).status_code == 200


@pytest.mark.parametrize("direction", ["Left", "left"])
def test_texts_and_ids_are_cut_at_their_start_where_the_direction_is_left(direction: str) -> None:
    text = LONG + "and two dogs on a beach"
    ids = [piece["id"] for piece in post("/tokenize", {"inputs": text}).json()[0]]
    kept = post("/embed_all", {"inputs": ids[-LIMITS.max_length :]}).json()
    for inputs in (text, ids):
        answer = post("/embed_all", {"inputs": inputs, "truncation_direction": direction})
        assert answer.headers["x-truncated-texts"] == "1"
        check_close(answer.json(), torch.tensor(kept))
    refused = post("/embed_all", {"inputs": text, "truncation_direction": direction, "truncate": False})
    assert refused.status_code == 422


@pytest.mark.parametrize("path", ["/embed_sparse", "/predict", "/rerank"])
def test_routes_of_other_models_are_424_as_in_tei(path: str) -> None:
    answer = post(path, {"inputs": "a"})
    assert (answer.status_code, answer.json()["error_type"]) == (424, "Backend")
    assert answer.json()["error"].startswith(f"{path}: expected a ")
    assert answer.json()["error"].endswith("got tiny, an encoder with one embedding a token")


def test_tokenize_gives_the_ids_that_are_encoded_and_where_they_stand_in_the_text() -> None:
    (pieces,) = post("/tokenize", {"inputs": TEXTS[1]}).json()
    assert [set(piece) for piece in pieces] == [{"id", "text", "special", "start", "stop"}] * len(pieces)
    assert (pieces[-1]["special"], pieces[-1]["start"], pieces[-1]["stop"]) == (True, None, None)
    assert "".join(TEXTS[1][piece["start"] : piece["stop"]] for piece in pieces[:-1]) == TEXTS[1]
    assert len(pieces) == len(post("/embed_all", {"inputs": TEXTS[1]}).json()[0])


def test_tokenize_leaves_special_tokens_out_where_it_is_told_to() -> None:
    texts = post("/tokenize", {"inputs": TEXTS, "add_special_tokens": False}).json()
    assert len(texts) == len(TEXTS)
    assert not any(piece["special"] for pieces in texts for piece in pieces)


def test_tokenize_never_cuts() -> None:
    assert len(post("/tokenize", {"inputs": LONG}).json()[0]) > LIMITS.max_length


def test_decode_undoes_tokenize() -> None:
    texts = ["a red bird", "two dogs"]
    ids = [[piece["id"] for piece in text] for text in post("/tokenize", {"inputs": texts}).json()]
    assert post("/decode", {"ids": ids}).json() == texts
    assert post("/decode", {"ids": ids[0]}).json() == texts[:1]
    assert post("/decode", {"ids": ids[0], "skip_special_tokens": False}).json() == ["a red bird</s>"]


def test_similarity_is_the_cosine_of_pooled_vectors() -> None:
    inputs = {"source_sentence": TEXTS[0], "sentences": [TEXTS[0], *TEXTS[1:]]}
    vectors = pool_alone(TEXTS)
    check_close(post("/similarity", {"inputs": inputs}).json(), vectors @ vectors[0])
    inputs["source_sentence"] = LONG
    assert post("/similarity", {"inputs": inputs, "parameters": {"truncate": False}}).status_code == 422
    assert post("/similarity", {"inputs": inputs}).status_code == 200


def test_info_has_teis_fields_and_what_clients_of_encode_ask_for() -> None:
    info = ask("GET", "/info").json()
    assert (info["model_id"], info["served_model_name"], info["model_dtype"]) == ("builtin:tiny", NAME, "float32")
    assert info["model_type"] == {"embedding": {"pooling": "mean"}}
    assert (info["max_client_batch_size"], info["max_input_length"], info["max_batch_tokens"]) == (8, 64, 128)
    assert (info["model_dim"], info["fingerprint"]) == (64, load_service().fingerprint)
    assert info["auto_truncate"] is True
    assert ask("GET", "/info?model=gpt").status_code == 404


@pytest.mark.parametrize("path", ["/health", "/ping"])
def test_health_is_the_models(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (ask("GET", path).status_code, ask("GET", path).content) == (200, b"")
    monkeypatch.setattr(load_service(), "is_healthy", lambda: False)
    answer = ask("GET", path)
    assert (answer.status_code, answer.json()) == (503, {"error": "unhealthy", "error_type": "Unhealthy"})


def test_answers_carry_teis_account_of_the_request() -> None:
    headers = post("/embed", {"inputs": TEXTS}).headers
    assert headers["x-compute-type"] == "cpu"
    assert int(headers["x-compute-characters"]) == sum(map(len, TEXTS))
    assert int(headers["x-compute-tokens"]) == sum(map(len, encode_alone(TEXTS)))
    steps = ("x-tokenization-time", "x-queue-time", "x-inference-time")
    assert int(headers["x-total-time"]) + 1 >= sum(int(headers[step]) for step in steps) >= 0


def test_unknown_paths_and_methods_are_refused_in_teis_shape() -> None:
    assert ask("GET", "/nothing").json() == {"error": "Not Found", "error_type": "Validation"}
    answer = ask("GET", "/embed")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
