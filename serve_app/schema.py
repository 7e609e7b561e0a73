"""The bodies of requests: own, TEI's and OpenAI's. Strict: a number is no text, and true is no number."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from t5enc.options import NO_RECIPE
from t5enc.tokenizer import Cut

DtypeName: TypeAlias = Literal["float32", "float16", "bfloat16"]
Batch: TypeAlias = list[str] | list[list[int]]
# A batch, or what stands for a batch of one.
Input: TypeAlias = str | list[str] | list[int] | list[list[int]]


def _explain(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """One error that says what a union of four types expects, in the place of pydantic's dozens."""
    try:
        return validate(value)
    except ValidationError as error:
        message = "expected a text, a list of texts, a list of token ids or a list of such lists, got {got}"
        raise PydanticCustomError("inputs", message, {"got": describe(value)}) from error


def describe(value: Any) -> str:
    """What JSON calls a value: `a list of string and number`."""
    if isinstance(value, list):
        return f"a list of {' and '.join(sorted({_name(item) for item in value}))}" if value else "an empty list"
    return _name(value)


def _name(value: Any) -> str:
    names = {str: "string", bool: "boolean", int: "integer", float: "number", list: "list", dict: "object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


Inputs: TypeAlias = Annotated[Input, WrapValidator(_explain)]
TextInputs: TypeAlias = Annotated[str | list[str], WrapValidator(_explain)]
IdInputs: TypeAlias = Annotated[list[int] | list[list[int]], WrapValidator(_explain)]
Direction: TypeAlias = Literal["Right", "right", "Left", "left"]


class Body(BaseModel):
    """What a client of another server sends beyond the fields known here is passed over, as those servers do."""

    model_config = ConfigDict(strict=True, frozen=True)


class EncodeBody(BaseModel):
    """`POST /encode`: texts, token ids that are encoded exactly as given, or `null` for a recipe's null prompt alone.

    Embeddings are answered in `dtype`, by default the one that the model computes in. A text over the limit is cut
    under a recipe, as its pipeline does, and refused without one, unless `truncate` says otherwise. `recipe` is one of
    `GET /recipes`, or none; `recipe_options` are options of its pipeline's call.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    texts: list[str] | None = None
    ids: list[list[int]] | None = None
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


class PrepareBody(BaseModel):
    """`POST /prepare`: captions, of which nothing is encoded; the recipe is as for `/encode`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    texts: list[str]
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


class VertexBody(Body):
    """`POST /vertex`: bodies of `/embed`."""

    instances: list[EmbedBody]


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
    sentences: list[str]


class SimilarityBody(Body):
    """`POST /similarity`: cosines of one sentence with others."""

    inputs: SimilarityInputs
    parameters: TruncateBody | None = None
    model: str | None = None


class EmbeddingsBody(Body):
    """`POST /v1/embeddings`: OpenAI's fields, and vLLM's bytes encodings with their `embed_dtype` and `endianness`."""

    input: Inputs
    model: str | None = None
    encoding_format: Literal["float", "base64", "bytes", "bytes_only"] = "float"
    dimensions: int | None = None
    user: str | None = None
    embed_dtype: DtypeName = "float32"
    endianness: Literal["native", "little", "big"] = "native"


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
