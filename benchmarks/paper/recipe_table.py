"""What a caption takes on disk under each recipe, beside the padded float32 tensor: the table of docs/recipes.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from t5enc.recipes.describe import is_packed
from t5enc.recipes.families import RECIPES
from t5enc.recipes.recipe import Recipe

HEADS = ("family", "encoder", "stored", "rows", "float16", "padded float32", "smaller", "packed")
KEPT = {"real": "its tokens", "real_plus_one": "its tokens and one pad", "all": "all rows"}
NARROW, WIDE = 2, 4  # bytes of a number


class Encoder(NamedTuple):
    """A checkpoint and its width; `is_assumed` where diffusers names none."""

    name: str
    width: int
    is_assumed: bool = False


UMT5_XXL, T5_XXL = Encoder("umt5-xxl", 4096), Encoder("t5-v1_1-xxl", 4096)
BYT5 = Encoder("byt5-small", 1472, is_assumed=True)
# Those of other families are one of the first two, after their kind.
ENCODERS: Mapping[str, Encoder] = {
    "longcat_audio_dit": Encoder("umt5-base", 768, is_assumed=True),
    "aura_flow": Encoder("pile-t5-xl", 2048),
    "hidream_image": Encoder("t5-v1_1-xxl", 4096, is_assumed=True),
    "deepfloyd_if": Encoder("t5-v1_1-xxl", 4096, is_assumed=True),
    "hunyuandit": Encoder("mt5-xl", 2048),
    "kandinsky3": Encoder("flan-ul2", 4096),
    "cosmos": Encoder("t5-11b", 1024),
    "stable_audio": Encoder("t5-base", 768),
    "audioldm2": Encoder("flan-t5-large", 1024),
    "glm_image": BYT5,
    "hunyuan_image": BYT5,
    "hunyuan_video1_5": BYT5,
}


def find_encoder(recipe: Recipe) -> Encoder:
    """The encoder of a family's published checkpoints."""
    return ENCODERS.get(recipe.name, UMT5_XXL if recipe.encoder == "umt5" else T5_XXL)


def make_table(rows: Mapping[str, int]) -> str:
    """The table in Markdown, for captions of so many stored rows a family."""
    lines = [
        HEADS,
        ("---",) * 3 + ("---:",) * 4 + ("---",),
        *(_make_row(RECIPES[name], rows[name]) for name in RECIPES),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _make_row(recipe: Recipe, rows: int) -> tuple[str, ...]:
    encoder = find_encoder(recipe)
    stored = rows * encoder.width * NARROW
    padded = (recipe.max_length or recipe.fallback_length) * encoder.width * WIDE
    is_fixed = recipe.width != "longest"
    return (
        f"`{recipe.name}`",
        encoder.name + (" ?" if encoder.is_assumed else ""),
        f"{KEPT[recipe.rows]}, of quotes" if recipe.encoder == "byt5" else KEPT[recipe.rows],
        str(rows),
        format_bytes(stored),
        format_bytes(padded) if is_fixed else f"up to {format_bytes(padded)}",
        f"{padded / stored:.1f}×" if stored and is_fixed else "",
        "yes" if is_packed(recipe) else "no",
    )


def format_bytes(count: int) -> str:
    """Three digits of kB or MB."""
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def read_rows(text: str) -> dict[str, int]:
    """The rows of each family, from a text that holds the table."""
    found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]
    return {cells[0].strip("`"): int(cells[3]) for cells in found if len(cells) == len(HEADS)}
