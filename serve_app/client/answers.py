"""What a server's answer means: embeddings, a failure that may pass, or an exception of this project.

N texts, T tokens of all of them, M model dim.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from serve_app.client.retries import PassingFailureError
from t5enc.embeddings import Embeddings
from t5enc.errors import ConfigError, InputError, PrecisionError, ServiceError, T5encError
from t5enc.pooling import Pooler
from t5enc.recipes.conditioning import Conditioning
from t5enc.recipes.recipe import Recipe

MEDIA_TYPE = "application/vnd.safetensors"
# Of a server that is busy, restarting or behind a proxy: encoding has no side effects, so all are tried again.
PASSING = frozenset({408, 425, 429, 502, 503, 504})
# Seconds for which a 404 that is not the service's own may pass: a proxy that has just started knows no route yet. One
# that does not pass is a wrong address.
ROUTE_PATIENCE = 15.0
# A foreign error page is quoted up to here.
LONGEST_QUOTE = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """Embeddings of N texts on the CPU, which texts were cut (N,), and what encoded them.

    Under a recipe the embeddings say which, and have its null prompt where that was asked for.
    """

    embeddings: Embeddings
    truncated: Tensor
    model: str
    fingerprint: str


def check_status(answer: httpx2.Response, where: str) -> None:
    """Raise what any status but 200 means: PrecisionError where it names texts that the model cannot compute."""
    if answer.status_code == 200:
        return
    if answer.status_code == 424 and (failed := read_failed(answer)):
        raise PrecisionError(failed)
    reason = f"{answer.status_code}: {read_message(answer)}"
    is_foreign = _read_json(answer) is None
    if answer.status_code in PASSING or (answer.status_code in (404, 500) and is_foreign):
        raise PassingFailureError(
            reason,
            retry_after=read_retry_after(answer),
            is_overload=answer.status_code == 429 or (answer.status_code == 503 and "Retry-After" in answer.headers),
            patience=ROUTE_PATIENCE if answer.status_code == 404 else math.inf,
        )
    raise _refusal(answer.status_code)(f"{where}: {reason}")


def read_message(answer: httpx2.Response) -> str:
    """The server's own words: of t5enc, TEI, OpenAI or FastAPI, or the beginning of a page of someone else's."""
    content = _read_json(answer)
    found = content.get("error", content.get("detail", content.get("message"))) if isinstance(content, dict) else None
    if isinstance(found, dict):
        found = found.get("message")
    if found:
        return found if isinstance(found, str) else json.dumps(found)
    quoted = " ".join(answer.text.split())
    return quoted if len(quoted) <= LONGEST_QUOTE else f"{quoted[:LONGEST_QUOTE]}…"


def read_failed(answer: httpx2.Response) -> dict[int, str]:
    """Places and reasons of the texts that a t5enc server names as failed; none in anyone else's answer."""
    content = _read_json(answer)
    failed = content.get("failed") if isinstance(content, dict) else None
    if not isinstance(failed, dict) or not all(place.isdecimal() for place in failed):
        return {}
    return {int(place): str(reason) for place, reason in failed.items()}


def read_retry_after(answer: httpx2.Response) -> float:
    """Seconds that the server asks to wait, given as such or as a date; 0 where it gives neither."""
    asked = answer.headers.get("Retry-After", "")
    try:
        seconds = float(asked)
    except ValueError:
        seconds = _read_dates(asked, answer.headers.get("Date", ""))
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


def read_answer(answer: httpx2.Response, count: int, where: str) -> Answer:
    """The embeddings of `count` texts; ServiceError for a body that is whole and still not that."""
    tensors, metadata = _read_tensors(answer)
    values, offsets, truncated = (tensors.get(name) for name in ("values", "offsets", "truncated"))
    if values is None or offsets is None or truncated is None:
        raise ServiceError(f"{where}: expected tensors values, offsets and truncated, got {', '.join(tensors)}")
    if values.dim() != 2 or offsets.shape != (count + 1,) or truncated.shape != (count,):
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        raise ServiceError(f"{where}: expected values, offsets and truncated of {count} texts, got {shapes}")
    if int(offsets[0]) != 0 or int(offsets[-1]) != len(values) or bool((offsets.diff() < 0).any()):
        raise ServiceError(f"{where}: expected offsets that rise from 0 to {len(values)}, got {offsets.tolist()}")
    conditioning = read_conditioning(tensors.get("null"), metadata, where)
    return Answer(
        Embeddings(values, offsets.to(torch.int64), conditioning, read_pooler(metadata)),
        truncated.bool(),
        metadata.get("model", ""),
        metadata.get("fingerprint", ""),
    )


def read_nothing(info: Mapping[str, Any], where: str) -> Answer:
    """No texts in the width and dtype that a server's `/info` tells; ServiceError for one that does not."""
    dim, dtype = info.get("model_dim"), getattr(torch, str(info.get("model_dtype")), None)
    if not isinstance(dim, int) or not isinstance(dtype, torch.dtype):
        found = {name: info.get(name) for name in ("model_dim", "model_dtype")}
        raise ServiceError(f"{where}: expected model_dim and model_dtype, as t5enc tells them, got {found}")
    nothing = Embeddings(torch.empty(0, dim, dtype=dtype), torch.zeros(1, dtype=torch.int64))
    names = (str(info.get(name, "")) for name in ("served_model_name", "fingerprint"))
    return Answer(nothing, torch.empty(0, dtype=torch.bool), *names)


def read_conditioning(null: Tensor | None, metadata: Mapping[str, str], where: str) -> Conditioning | None:
    """The recipe that an answer names, and the null prompt's rows; None where it names none.

    ServiceError for a recipe that this version does not know: one of a newer server's.
    """
    if "recipe" not in metadata:
        return None
    try:
        recipe = Recipe.from_mapping(json.loads(metadata["recipe_fields"]))
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        name = f"{metadata['recipe']} of version {metadata.get('recipe_version')}"
        raise ServiceError(f"{where}: expected a recipe that is known here, got {name}: {error}") from error
    return Conditioning(recipe, null if recipe.null == "text" else None)


def read_pooler(metadata: Mapping[str, str]) -> Pooler | None:
    """That of a model whose own modules pool: they are the server's, and asked for at `/embed`."""
    names = metadata.get("pooling_modules")
    return None if names is None else Pooler.absent(json.loads(names))


def join_answers(answers: Sequence[Answer], where: str) -> Answer:
    """The texts of all answers in order; ServiceError where not all come from the same weights and recipe."""
    check_same(answers, where)
    first = answers[0]
    embeddings = Embeddings.concatenate([answer.embeddings for answer in answers])
    truncated = torch.cat([answer.truncated for answer in answers])
    return Answer(embeddings, truncated, first.model, first.fingerprint)


def add_null(answer: Answer, null: Answer, where: str) -> Answer:
    """The texts of one answer with the null prompt of another; ServiceError as for `join_answers`."""
    check_same([answer, null], where)
    return replace(answer, embeddings=replace(answer.embeddings, conditioning=null.embeddings.conditioning))


def check_same(answers: Sequence[Answer], where: str) -> None:
    """ServiceError where not all answers come from the same weights and recipe."""
    first = answers[0]
    for answer in answers:
        if answer.fingerprint != first.fingerprint:
            raise ServiceError(
                f"{where}: the model changed on the way, from fingerprint {first.fingerprint} to {answer.fingerprint}; "
                "encode again for embeddings of one model"
            )
        if _name_recipe(answer) != _name_recipe(first):
            raise ServiceError(f"{where}: the recipe changed on the way; encode again for embeddings of one recipe")


def is_same(answer: Answer, null: Answer) -> bool:
    """Whether a null prompt is that of an answer: of the same weights and recipe, in the same dtype."""
    dtypes = (answer.embeddings.values.dtype, null.embeddings.values.dtype)
    is_of_one_model = answer.fingerprint == null.fingerprint and dtypes[0] == dtypes[1]
    return is_of_one_model and _name_recipe(answer) == _name_recipe(null)


def _name_recipe(answer: Answer) -> Recipe | None:
    conditioning = answer.embeddings.conditioning
    return None if conditioning is None else conditioning.recipe


def _refusal(status: int) -> type[T5encError]:
    if status in (401, 403):
        return ConfigError
    # 424 is TEI's for a model that fails.
    return InputError if 400 <= status < 500 and status != 424 else ServiceError


def _read_json(answer: httpx2.Response) -> Any:
    """The body as JSON; None where it is none."""
    try:
        return json.loads(answer.content)
    except ValueError:
        return None


def _read_dates(then: str, now: str) -> float:
    """Seconds from one HTTP date to another, both by the server's clock; nan where they are no dates."""
    try:
        return (parsedate_to_datetime(then) - parsedate_to_datetime(now)).total_seconds()
    except (TypeError, ValueError):
        return math.nan


def _read_tensors(answer: httpx2.Response) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors body. One that does not parse was cut short, or is a proxy's page."""
    body = answer.content
    try:
        tensors = load(body)
    except (SafetensorError, ValueError) as error:
        found = f"{len(body)} bytes of {answer.headers.get('Content-Type', 'no type')}"
        raise PassingFailureError(f"200 with a body that is no whole safetensors file ({found}): {error}") from error
    header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    return tensors, header.get("__metadata__", {})
