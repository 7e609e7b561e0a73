"""Clients that people have, as their makers ship them, against the running service."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from tests.serve_app.running.real_serve import MODEL, load_encoder, pool_alone, tokenize
from tests.serve_app.running.service import KEY, Service

pytestmark = pytest.mark.xdist_group("ray")
TEXTS = ["a red fox in the snow", "two boats at dawn", "Ein Café, 日本", "word " * 20]
LONG = "word " * 100


def assert_pooled(found: Any, texts: Sequence[str]) -> None:
    """Vectors are what the library pools of the same texts."""
    torch.testing.assert_close(torch.as_tensor(found, dtype=torch.float32), pool_alone(texts), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def openai(service: Service) -> Iterator[Any]:
    module = pytest.importorskip("openai", reason="needs the package openai")
    with module.OpenAI(base_url=f"{service.url}/v1", api_key=KEY) as client:
        yield client


@pytest.mark.parametrize("encoding", [None, "float", "base64"])
def test_openai_embeds_a_list_of_texts(openai: Any, encoding: str | None) -> None:
    options = {"encoding_format": encoding} if encoding else {}  # without, the client asks for base64 and decodes it
    answer = openai.embeddings.create(model=MODEL, input=TEXTS, **options)
    vectors = [item.embedding for item in answer.data]
    if encoding == "base64":
        vectors = [decode_vector(vector) for vector in vectors]
    assert_pooled(vectors, TEXTS)
    assert [item.index for item in answer.data] == list(range(len(TEXTS)))
    assert answer.model == MODEL
    assert answer.usage.prompt_tokens == sum(map(len, tokenize(TEXTS)))


def decode_vector(text: str) -> list[float]:
    """Numbers of OpenAI's base64."""
    import base64

    import numpy as np

    return list(np.frombuffer(base64.b64decode(text), dtype="<f4").astype(float))


def test_openai_embeds_a_text_ids_and_lists_of_ids(openai: Any) -> None:
    ids = [text.tolist() for text in tokenize(TEXTS)]
    for given, expected in ((TEXTS[0], TEXTS[:1]), (ids[1], TEXTS[1:2]), (ids, TEXTS)):
        answer = openai.embeddings.create(model=MODEL, input=given)
        assert_pooled([item.embedding for item in answer.data], expected)


def test_openai_lists_the_models(openai: Any) -> None:
    assert [model.id for model in openai.models.list()] == [MODEL]
    assert openai.models.retrieve(MODEL).owned_by == "t5enc"


def test_openai_raises_its_own_errors(openai: Any, service: Service) -> None:
    from openai import AuthenticationError, NotFoundError, OpenAI, UnprocessableEntityError

    with pytest.raises(NotFoundError, match="model: expected one of builtin:tiny, got 'gpt'") as unknown:
        openai.embeddings.create(model="gpt", input="a")
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(UnprocessableEntityError, match="dimensions: expected none or") as shortened:
        openai.embeddings.create(model=MODEL, input="a", dimensions=8)
    assert shortened.value.param == "dimensions"
    with pytest.raises(UnprocessableEntityError, match="expected at most 64 tokens"):
        openai.embeddings.create(model=MODEL, input=LONG)
    with (
        OpenAI(base_url=f"{service.url}/v1", api_key="not-a-key-of-anybody") as stranger,
        pytest.raises(AuthenticationError) as refused,
    ):
        stranger.embeddings.create(model=MODEL, input="a")
    assert refused.value.code == "invalid_api_key"


def test_openai_embeds_asynchronously(service: Service) -> None:
    openai = pytest.importorskip("openai", reason="needs the package openai")

    async def embed() -> list[list[float]]:
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key=KEY) as client:
            asked = [client.embeddings.create(model=MODEL, input=text) for text in TEXTS]
            return [answer.data[0].embedding for answer in await asyncio.gather(*asked)]

    assert_pooled(asyncio.run(embed()), TEXTS)


@pytest.mark.parametrize("path", ["", "/embed"])
def test_huggingface_hub_extracts_features(service: Service, path: str) -> None:
    from huggingface_hub import InferenceClient

    with InferenceClient(model=service.url + path, token=KEY) as client:
        assert_pooled(client.feature_extraction(TEXTS[0]), TEXTS[:1])
        assert_pooled(client.feature_extraction(TEXTS), TEXTS)
        assert_pooled(client.feature_extraction(LONG, truncate=True), [LONG])
        unscaled = torch.as_tensor(client.feature_extraction(TEXTS, normalize=False))
    torch.testing.assert_close(unscaled, load_encoder().encode(TEXTS).pooled("mean"), rtol=0, atol=1e-5)


def test_huggingface_hub_tells_why_a_text_is_refused(service: Service) -> None:
    from huggingface_hub import InferenceClient
    from huggingface_hub.errors import HfHubHTTPError

    with InferenceClient(model=service.url, token=KEY) as client, pytest.raises(HfHubHTTPError) as refused:
        client.feature_extraction(LONG, truncate=False)
    assert refused.value.response.status_code == 422


def test_langchain_embeds_documents_and_queries(service: Service) -> None:
    langchain = pytest.importorskip("langchain_huggingface", reason="needs the package langchain-huggingface")
    client = langchain.HuggingFaceEndpointEmbeddings(model=service.url, huggingfacehub_api_token=KEY)
    assert_pooled(client.embed_documents(TEXTS), TEXTS)
    assert_pooled([client.embed_query(TEXTS[0])], TEXTS[:1])


def test_langchain_embeds_asynchronously(service: Service) -> None:
    langchain = pytest.importorskip("langchain_huggingface", reason="needs the package langchain-huggingface")
    client = langchain.HuggingFaceEndpointEmbeddings(model=service.url, huggingfacehub_api_token=KEY)

    async def embed() -> list[list[float]]:
        try:
            return [*await client.aembed_documents(TEXTS), await client.aembed_query(TEXTS[0])]
        finally:
            await client.async_client.close()

    assert_pooled(asyncio.run(embed()), [*TEXTS, TEXTS[0]])


def make_llama_index(service: Service, **options: Any) -> Any:
    """LlamaIndex's client of TEI; it puts no instruction before texts of a model that it does not know."""
    reason = "needs the package llama-index-embeddings-text-embeddings-inference"
    module = pytest.importorskip("llama_index.embeddings.text_embeddings_inference", reason=reason)
    return module.TextEmbeddingsInference(model_name=MODEL, base_url=service.url, auth_token=KEY, **options)


def test_llama_index_embeds_texts_and_queries(service: Service) -> None:
    client = make_llama_index(service, embed_batch_size=3)
    assert_pooled(client.get_text_embedding_batch(TEXTS), [text.strip() for text in TEXTS])
    assert_pooled([client.get_query_embedding(TEXTS[0])], TEXTS[:1])


def test_llama_index_embeds_asynchronously(service: Service) -> None:
    client = make_llama_index(service, embed_batch_size=3)
    assert_pooled(asyncio.run(client.aget_text_embedding_batch(TEXTS)), [text.strip() for text in TEXTS])
    assert_pooled([asyncio.run(client.aget_query_embedding(TEXTS[0]))], TEXTS[:1])
