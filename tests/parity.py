"""How near the drop-ins are to transformers in float32, and how near others are: families, dtypes, masks, attentions.

    python -m tests.parity [--families t5_v1_1 ...] [--dtypes float32 ...] [--seeds N]

Random checkpoints of eight layers, weights rounded to bfloat16 first, as Google's are. In float32 the relative L2
distance counts. In 16 bit, every quantile of the absolute difference: ours has to be smaller than that of transformers
in the same dtype, and of nai-t5-wrapper where it is installed and runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.families import FAMILIES, make_checkpoint

QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999)
DTYPES = ("float32", "bfloat16", "float16")
ATTENTIONS = ("sdpa", "flex_attention")
LAYERS = 8
# nai-t5-wrapper knows no other distance than 128.
SHAPE = {"num_layers": LAYERS, "d_model": 128, "num_heads": 4, "d_kv": 32, "d_ff": 192}
SHAPE |= {"relative_attention_max_distance": 128}
ROWS, LENGTH = 8, 60
Encode = Callable[[Tensor, Tensor | None], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One cell of the matrix: distances of one candidate to float32 at one kind of place."""

    family: str
    dtype: str
    mask: str
    attention: str
    place: str
    candidate: str
    relative: float
    quantiles: tuple[float, ...]

    @property
    def cell(self) -> tuple[str, ...]:
        """Where in the matrix it stands, whoever the candidate."""
        return self.family, self.dtype, self.mask, self.attention, self.place


def draw_ids(seed: int) -> Tensor:
    """(B, S) token ids."""
    return torch.randint(2, 300, (ROWS, LENGTH), generator=torch.Generator().manual_seed(seed))


def make_masks() -> dict[str, tuple[Tensor | None, Tensor]]:
    """Each kind of mask, and the (B, S) tokens that are real under it.

    One row of the padding mask is all pads. The packing mask has three documents a row, and pads that see nothing.
    """
    lengths = torch.tensor([LENGTH, 1, 7, 33, 0, 59, 20, 46])
    padding = torch.arange(LENGTH) < lengths[:, None]
    documents = torch.bucketize(torch.arange(LENGTH), torch.tensor([10, 31, 50]), right=True).repeat(ROWS, 1)
    packing = (documents[:, :, None] == documents[:, None, :]) & (documents[:, None, :] < 3)
    everything = torch.ones(ROWS, LENGTH, dtype=torch.bool)
    return {"none": (None, everything), "2-D": (padding, padding), "3-D": (packing, documents < 3)}


def make_rounded(family: str, folder: Path, seed: int) -> None:
    """A checkpoint whose weights are numbers of bfloat16."""
    model = make_checkpoint(family, folder, seed=seed, **SHAPE)
    model.bfloat16().float().save_pretrained(folder)


@torch.no_grad()
def run(model: Any, ids: Tensor, mask: Tensor | None) -> Tensor:
    """Hidden states in float32."""
    hidden: Tensor = model(input_ids=ids, attention_mask=mask).last_hidden_state
    return hidden.float()


def load_theirs(family: str, folder: Path, dtype: str) -> Encode:
    """transformers with SDPA; it takes a 3-D mask as a 4-D one."""
    import transformers

    base = getattr(transformers, FAMILIES[family]["class"])
    model = base.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    return lambda ids, mask: run(model, ids, mask[:, None] if mask is not None and mask.dim() == 3 else mask)


def load_ours(family: str, folder: Path, dtype: str, attention: str) -> Encode:
    """Our drop-in; Flex is always compiled."""
    import t5enc.hf

    drop_in = getattr(t5enc.hf, FAMILIES[family]["class"])
    model = drop_in.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation=attention).eval()
    return lambda ids, mask: run(model, ids, mask)


def load_nai(folder: Path, dtype: str, attention: str) -> Encode | None:
    """nai-t5-wrapper, where it is installed."""
    if importlib.util.find_spec("nai_t5_wrapper") is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapper: Any = importlib.import_module("nai_t5_wrapper").NAIT5EncoderModel
        uses_flex = attention == "flex_attention"
        model = wrapper.from_pretrained(
            str(folder), dtype=getattr(torch, dtype), device_map="cpu", use_flex_attention=uses_flex
        )

    def encode(ids: Tensor, mask: Tensor | None) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its Flex is not compiled
            return run(model, ids, mask)

    return encode


def runs_in_nai(family: str, mask: str, attention: str, place: str) -> bool:
    """What that computes at all: gelu, no packing mask under Flex, and other numbers at pads."""
    return family != "ul2" and place == "real" and not (mask == "3-D" and attention == "flex_attention")


def measure(family: str, dtype: str, seeds: int, attentions: Sequence[str] = ATTENTIONS) -> list[Figure]:
    """All cells of one family and dtype, the differences of all seeds together."""
    differences: dict[tuple[str, ...], list[Tensor]] = {}
    sizes: dict[tuple[str, ...], float] = {}
    for seed, attention in itertools.product(range(seeds), attentions):
        for mask, place, candidate, found, expected in _compare(family, dtype, seed, attention):
            cell = (mask, attention, place, candidate)
            differences.setdefault(cell, []).append((found - expected).abs().flatten())
            sizes[cell] = sizes.get(cell, 0.0) + float(expected.square().sum())
    return [_summarize(family, dtype, cell, torch.cat(parts), sizes[cell]) for cell, parts in differences.items()]


def _compare(family: str, dtype: str, seed: int, attention: str) -> Iterator[tuple[str, str, str, Tensor, Tensor]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_rounded(family, folder, seed)
        candidates = {"t5enc": load_ours(family, folder, dtype, attention)}
        if dtype != "float32":
            candidates["transformers"] = load_theirs(family, folder, dtype)
            nai = load_nai(folder, dtype, attention)
            candidates |= {"nai-t5-wrapper": nai} if nai is not None else {}
        reference, ids = load_theirs(family, folder, "float32"), draw_ids(seed)
        for kind, (mask, real) in make_masks().items():
            expected = reference(ids, mask)
            for candidate, place in itertools.product(candidates, ("real", "pads")):
                rows = real if place == "real" else ~real
                is_able = candidate != "nai-t5-wrapper" or runs_in_nai(family, kind, attention, place)
                if is_able and rows.any():
                    yield kind, place, candidate, candidates[candidate](ids, mask)[rows], expected[rows]


def _summarize(family: str, dtype: str, cell: tuple[str, ...], differences: Tensor, size: float) -> Figure:
    mask, attention, place, candidate = cell
    quantiles = torch.quantile(differences, torch.tensor(QUANTILES))
    return Figure(
        family=family,
        dtype=dtype,
        mask=mask,
        attention=attention,
        place=place,
        candidate=candidate,
        relative=float(differences.double().square().sum().sqrt() / size**0.5),
        quantiles=tuple(quantiles.tolist()),
    )


def find_losses(figures: Sequence[Figure], tolerance: float = 2e-5) -> list[str]:
    """Where ours is too far from float32, or not nearer than another: a sentence each."""
    ours = {figure.cell: figure for figure in figures if figure.candidate == "t5enc"}
    losses = []
    for figure in figures:
        where, own = " ".join(figure.cell), ours[figure.cell]
        if figure is own and figure.dtype == "float32" and not figure.relative < tolerance:
            losses.append(f"{where}: relative distance {figure.relative:.1e}, expected less than {tolerance:.0e}")
        if figure is not own:
            worse = [q for q, a, b in zip(QUANTILES, own.quantiles, figure.quantiles, strict=True) if not a < b]
            losses += [f"{where}: not nearer than {figure.candidate} in quantiles {worse}"] if worse else []
    return losses


def print_matrix(figures: Sequence[Figure]) -> None:
    """The matrix as a table: relative distances, and the share of transformers' median difference."""
    from rich.console import Console
    from rich.table import Table

    table = Table("family", "dtype", "mask", "attention", "places", "t5enc", "transformers", "nai-t5-wrapper", "nearer")
    cells = {figure.cell: {} for figure in figures}  # type: dict[tuple[str, ...], dict[str, Figure]]
    for figure in figures:
        cells[figure.cell][figure.candidate] = figure
    for cell, found in cells.items():
        distances = [f"{found[name].relative:.2e}" if name in found else "-" for name in CANDIDATES]
        losses = find_losses(list(found.values()))
        table.add_row(*cell, *distances, "no" if losses else "yes")
    Console(width=130).print(table)


CANDIDATES = ("t5enc", "transformers", "nai-t5-wrapper")


def main() -> None:
    """Measure, print, and end with 1 where something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="*", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--dtypes", nargs="*", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--attentions", nargs="*", default=list(ATTENTIONS), choices=ATTENTIONS)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    pairs = itertools.product(options.families, options.dtypes)
    figures = [figure for pair in pairs for figure in measure(*pair, options.seeds, options.attentions)]
    print_matrix(figures)
    losses = find_losses(figures)
    print("\n".join(losses) or "every cell as it should be")
    raise SystemExit(1 if losses else 0)


if __name__ == "__main__":
    main()
