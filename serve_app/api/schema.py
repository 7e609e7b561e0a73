"""The bodies of requests: own, TEI's and OpenAI's. Strict: a number is no text, and true is no number."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from serve_app.served.notes import find_notes
from serve_app.served.refusals import refuse_count, refuse_value
from t5enc.options import NO_RECIPE
from t5enc.text.tokenizer import Cut

DtypeName: TypeAlias = Literal["float32", "float16", "bfloat16"]
Batch: TypeAlias = list[str] | list[list[int]]
# A body of wrong elements is refused at the first: to describe them all takes seconds a megabyte.
Texts: TypeAlias = Annotated[list[str], Field(fail_fast=True)]
Ids: TypeAlias = Annotated[list[int], Field(fail_fast=True)]
IdLists: TypeAlias = Annotated[list[Ids], Field(fail_fast=True)]
# A batch, or what stands for a batch of one.
Input: TypeAlias = str | Texts | Ids | IdLists
# The name of the limit in the context of a validation.
MAX_TEXTS = "max_texts"
# Fields of other names that are listed one by one.
MOST_UNKNOWN = 8


def _check_count(value: Any, info: ValidationInfo) -> Any:
    """Refuse more texts than a request may have before any is looked at; a list of numbers is a single one."""
    limit = (info.context or {}).get(MAX_TEXTS)
    if limit is not None and isinstance(value, list) and len(value) > limit and not isinstance(value[0], int):
        find_notes().note_method("batch")
        raise refuse_count(len(value), limit, info.field_name or "body")
    return value


def _explain(value: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """One error that says what a union of four types expects, in the place of one for each."""
    _check_count(value, info)
    try:
        return validate(value)
    except ValidationError as error:
        message = "expected a text, a list of texts, a list of token ids or a list of such lists, got {got}"
        raise PydanticCustomError("inputs", message, {"got": describe(value)}) from error


def describe(value: Any) -> str:
    """What JSON calls a value: `a list of string and number`."""
    if isinstance(value, list):
        names = sorted({_name_type(kind) for kind in set(map(type, value))})
        return f"a list of {' and '.join(names)}" if names else "an empty list"
    return _name_type(type(value))


def _name_type(kind: type[Any]) -> str:
    names = {str: "string", bool: "boolean", int: "integer", float: "number", list: "list", dict: "object"}
    return "null" if kind is type(None) else names.get(kind, kind.__name__)


Inputs: TypeAlias = Annotated[Input, WrapValidator(_explain)]
TextInputs: TypeAlias = Annotated[str | Texts, WrapValidator(_explain)]
IdInputs: TypeAlias = Annotated[Ids | IdLists, WrapValidator(_explain)]
CountedTexts: TypeAlias = Annotated[Texts, BeforeValidator(_check_count)]
Direction: TypeAlias = Literal["Right", "right", "Left", "left"]


class Body(BaseModel):
    """What a client of another server sends beyond the fields known here is passed over, as those servers do."""

    model_config = ConfigDict(strict=True, frozen=True)


class OwnBody(BaseModel):
    """A field that is not known here is refused: many of them at once."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_fields(cls, value: Any) -> Any:
        unknown = value.keys() - cls.model_fields.keys() if isinstance(value, dict) else ()
        if len(unknown) > MOST_UNKNOWN:
            raise refuse_value("body", f"expected fields {', '.join(cls.model_fields)}, got {len(unknown)} others")
        return value


class EncodeBody(OwnBody):
    """`POST /encode`: texts, token ids that are encoded exactly as given, or `null` for a recipe's null prompt alone.

    Embeddings are answered in `dtype`, by default the one that the model computes in. A text over the limit is cut
    under a recipe, as its pipeline does, and refused without one, unless `truncate` says otherwise. `recipe` is one of
    `GET /recipes`, or none; `recipe_options` are options of its pipeline's call.
    """

    texts: CountedTexts | None = None
    ids: Annotated[IdLists, BeforeValidator(_check_count)] | None = None
    recipe: str | None = None
    recipe_options: dict[str, Any] = Field(default_factory=dict)
    null: bool = False
    pipeline: bool = False
    dtype: DtypeName | None = None
    model: str | None = None
    truncate: bool | None = None

    @model_validator(mode="after")
    def _check_either(self) -> Self:
        if (self.texts is None) == (self.ids is None) and not (self.texts is None and self.null):
            found = "neither" if self.texts is None else "both"
            raise PydanticCustomError("either", "expected texts or ids, got {found}", {"found": found})
        if self.ids is not None and (name := self._find_recipes_field()):
            message = "expected texts with {name}, got ids, which are taken as they are"
            raise PydanticCustomError("either", message, {"name": name})
        return self

    def _find_recipes_field(self) -> str | None:
        """The first field that asks for a recipe."""
        asks = {"recipe": self.recipe not in (None, NO_RECIPE), "recipe_options": self.recipe_options}
        return next(
            (name for name, ask in (asks | {"null": self.null, "pipeline": self.pipeline}).items() if ask), None
        )


class PrepareBody(OwnBody):
    """`POST /prepare`: captions, of which nothing is encoded; the recipe is as for `/encode`."""

    texts: CountedTexts
    recipe: str | None = None
    recipe_options: dict[str, Any] = Field(default_factory=dict)
    model: str | None = None


class TruncateBody(Body):
    """What TEI's bodies say of texts over the limit: null leaves it to the server, which cuts them."""

    truncate: bool | None = None
    truncation_direction: Direction = "Right"
    prompt_name: str | None = None
    model: str | None = None

    @property
    def cut(self) -> Cut:
        """Where a text that is too long loses tokens: TEI's directions are those of its page."""
        return "start" if self.truncation_direction.lower() == "left" else "end"


class EmbedAllBody(TruncateBody):
    """`POST /embed_all`: texts or token ids; every token's embedding is answered."""

    inputs: Inputs


class EmbedBody(EmbedAllBody):
    """`POST /embed`: one vector a text, the mean of its tokens, of unit length unless `normalize` is false."""

    normalize: bool | None = True
    dimensions: int | None = None


class TokenizeBody(Body):
    """`POST /tokenize`: texts, which are never cut."""

    inputs: TextInputs
    add_special_tokens: bool = True
    prompt_name: str | None = None
    model: str | None = None


class DecodeBody(Body):
    """`POST /decode`: token ids to text."""

    ids: IdInputs
    skip_special_tokens: bool = True
    model: str | None = None


class SimilarityInputs(Body):
    """A sentence, and those that it is compared with."""

    source_sentence: str
    sentences: CountedTexts


class SimilarityBody(Body):
    """`POST /similarity`: cosines of one sentence with others."""

    inputs: SimilarityInputs
    parameters: TruncateBody | None = None
    model: str | None = None


class EmbeddingsBody(Body):
    """`POST /v1/embeddings`: OpenAI's fields, and vLLM's bytes encodings with their `embed_dtype` and `endianness`."""

    input: Inputs
    model: str | None = None
    encoding_format: Literal["float", "base64", "bytes", "bytes_only"] | None = "float"
    dimensions: int | None = None
    user: str | None = None
    embed_dtype: DtypeName | None = "float32"
    endianness: Literal["native", "little", "big"] | None = "native"

    @property
    def form(self) -> tuple[str, str, str]:
        """Encoding, dtype and byte order: null is what goes without saying, as in OpenAI's API."""
        return self.encoding_format or "float", self.embed_dtype or "float32", self.endianness or "native"


class TeiError(BaseModel):
    """Every error but OpenAI's, as TEI has it; and the places of texts that the model cannot compute, with reasons."""

    error: str
    error_type: Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]
    failed: dict[int, str] | None = None


class OpenAIErrorContent(BaseModel):
    """What went wrong, and with which field."""

    message: str
    type: str
    param: str | None
    code: str | None
    failed: dict[int, str] | None = None


class OpenAIError(BaseModel):
    """Every error under /v1 and of /embeddings, as OpenAI has it."""

    error: OpenAIErrorContent


def as_batch(inputs: Input) -> Batch:
    """A single text, or a single list of token ids, as a batch of one."""
    if isinstance(inputs, str):
        return [inputs]
    if inputs and isinstance(inputs[0], int):
        return [inputs]
    return inputs  # type: ignore[return-value]
