"""Recipe: what one family of diffusion pipelines does between a caption and its transformer, as data.

A caption becomes documents of token ids (usually one), each is encoded, and some of its rows are kept. Where pads are
attended they are tokens like others, and change all rows. Where they are not, a pad is a query that no other row sees,
and is computed only if the pipeline reads its row. Everything else, zeros and masks, is rebuilt when it is read.

L tokens in a row of the pipeline's batch, M model dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Literal

from t5enc.errors import ConfigError
from t5enc.fields.types import check_fields

EncoderKind = Literal["t5", "umt5", "mt5", "byt5"]
CleanName = Literal["none", "lower", "if", "wan", "longcat"]
# How a caption is turned into the texts that are encoded, each of which is a document.
Form = Literal["caption", "visualcloze", "glm_spans", "hunyuan_image_spans", "hunyuan_video_spans"]
# Which rows of a document are kept: those of its tokens, the first pad's too, or all L.
Rows = Literal["real", "real_plus_one", "all"]
# How wide the pipeline's tensor is: L, or as wide as the batch needs, and one more; of one caption only, or of all.
Width = Literal["max_length", "longest", "longest_plus_one", "longest_of_one"]
# The mask that goes with it: none, ones for kept rows in a dtype ("float" is that of the embeddings), or those
# M times over, as AuraFlow has it.
MaskKind = Literal["none", "int64", "bool", "float", "repeated"]
# What is done to the rows: LongCat adds two norms, Stable Audio projects.
Finish = Literal["none", "add_norms", "project"]
# What stands for no caption: nothing, a text under the same recipe, or zeros.
NullKind = Literal["none", "text", "zeros"]
# The mask of the null rows: of their own, none of them, or the positive's.
NullMask = Literal["own", "zeros", "positive"]
NullWidth = Literal["positive", "own"]
# Words for people, and what a call may ask for: no number depends on these once `max_length` is settled.
PROSE = ("source", "notes", "options", "longest", "within_limit", "fallback_length")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One family of pipelines; `version` grows with every change of what it computes.

    `max_length` is L, the end token included; 0 stands for the tokenizer's own limit, or `fallback_length` where it
    has none. `longest` is the largest L that the pipeline takes, `within_limit` one that stays in the tokenizer's
    limit. `options` are the pipeline's own names for what a call may change.
    """

    name: str
    version: int = 1
    source: str = ""
    encoder: EncoderKind = "t5"
    clean: CleanName = "none"
    form: Form = "caption"
    max_length: int
    longest: int | None = None
    within_limit: bool = False
    fallback_length: int = 512
    attends_pads: bool = False
    rows: Rows = "real"
    width: Width = "max_length"
    pads_left: bool = False
    mask: MaskKind = "none"
    finish: Finish = "none"
    null: NullKind = "text"
    null_text: str = ""
    cleans_null: bool = True
    null_rows: Rows | None = None
    null_mask: NullMask = "own"
    null_width: NullWidth = "positive"
    zeroes_empty_null: bool = False
    zeroes_empty: bool = False
    layout: str = ""
    task: str = ""
    options: tuple[str, ...] = ()
    notes: str = ""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.max_length < 0 or (self.longest is not None and self.max_length > self.longest):
            raise ConfigError(f"max_length: expected 0 to {self.longest or 'any length'}, got {self.max_length}")
        if self.attends_pads and self.rows == "real_plus_one":
            raise ConfigError("rows: expected real or all where pads are attended, got real_plus_one")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Recipe:
        """A recipe from plain values, as YAML and JSON have them; ConfigError names what is unknown or missing."""
        known = [entry.name for entry in fields(cls)]
        for name in values:
            if name not in known:
                raise ConfigError(f"{name}: no such field of a recipe; expected one of {', '.join(known)}")
        for name in ("name", "max_length"):
            if name not in values:
                raise ConfigError(f"{name}: a recipe needs it, and it is not there")
        options = values.get("options", ())
        return cls(**{**values, "options": tuple(options) if isinstance(options, list) else options})

    def to_mapping(self) -> dict[str, Any]:
        """Plain values that `from_mapping` reads."""
        return asdict(self) | {"options": list(self.options)}

    def to_identity(self) -> dict[str, Any]:
        """Name, version and the fields that numbers depend on: what makes two recipes the same."""
        return complete_identity(asdict(self))


def complete_identity(values: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of a recipe that another release wrote: without its prose, and with the fields it did not know.

    A field that a release adds has for its default what was computed before.
    """
    defaults = {entry.name: entry.default for entry in fields(Recipe) if entry.default is not MISSING}
    return {name: value for name, value in {**defaults, **values}.items() if name not in PROSE}
