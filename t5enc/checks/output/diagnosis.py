"""Why an embedding is not that of its caption: another row's, another length's, recipe's or dtype's, scaled, damaged.

T tokens, M model dim.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from t5enc.checks.output.claims import Claims
from t5enc.checks.output.distances import MARGIN_OF_COMPUTING, MARGIN_OF_STORING, Bound, measure
from t5enc.checks.output.encoding import Encode
from t5enc.checks.output.row_checks import PreparedRow
from t5enc.config import EncoderConfig
from t5enc.errors import ConfigError, InputError
from t5enc.recipes.families import RECIPES
from t5enc.recipes.recipe import Recipe
from t5enc.storage.codecs import STORAGE_DTYPES, find_codec, from_bytes, to_bytes, working_dtype
from t5enc.text.preparer import Preparer, find_kind
from t5enc.text.prompts import Prompt

LENGTHS = (32, 64, 77, 120, 128, 200, 224, 226, 256, 300, 400, 512, 1024)
DTYPES = ("float16", "bfloat16")
# Beyond this, no dtype explains what is off.
OFF_BY_A_DTYPE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A row whose numbers are off: `values` (T, M) are stored, `expected` are those of its caption."""

    prepared: PreparedRow
    values: Tensor
    expected: Tensor

    @property
    def where(self) -> str:
        """The row, for people."""
        return self.prepared.row.where


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """Another row that a suspect's embedding may be of."""

    where: str
    prompt: Prompt


@dataclass(frozen=True, kw_only=True)
class Suppositions:
    """What suspects are held against; `neighbours` gives rows beside one, `likely` those that are most alike."""

    claims: Claims
    config: EncoderConfig
    preparer: Preparer
    bound: Bound
    encode: Encode
    load: Callable[[str], Encode]
    neighbours: Callable[[PreparedRow], list[Other]]
    likely: Callable[[Tensor], list[Other]]

    def explain(self, suspects: Sequence[Suspect]) -> list[str]:
        """A sentence for each kind of cause, the most frequent first."""
        causes = [self._explain(suspect) for suspect in suspects]
        counts = Counter(kind for kind, _ in causes)
        firsts = dict(reversed(causes))
        return [
            f"{kind} ({count} of {len(suspects)} rows looked into): {firsts[kind]}"
            for kind, count in counts.most_common()
        ]

    def _explain(self, suspect: Suspect) -> tuple[str, str]:
        """The kind of cause, and what it is in this row."""
        tries = (
            self._find_damage,
            self._find_scale,
            self._find_codec,
            self._find_row,
            self._find_length,
            self._find_recipe,
            self._find_dtype,
        )
        for attempt in tries:
            if found := attempt(suspect):
                return found
        return "no cause found", (
            f"{suspect.where}: no other row looked at, scale, length, recipe or dtype gives these numbers; "
            f"another model does, or they were damaged as a whole"
        )

    def _is_near(self, values: Tensor, expected: Tensor) -> bool:
        """What was changed has been stored twice, and may be off by twice as much."""
        if values.shape != expected.shape:
            return False
        return not measure(values, expected).exceeds(self.bound.limit(expected), slack=2.0)

    def _find_damage(self, suspect: Suspect) -> tuple[str, str] | None:
        """Some tokens are right and some are not, which no other text or model makes of them."""
        if suspect.values.shape != suspect.expected.shape:
            return None
        exact = suspect.expected.double()
        errors = (suspect.values.double() - exact).norm(dim=1) / exact.norm(dim=1)
        off = (errors > self.bound.limit(suspect.expected).token).nonzero().flatten().tolist()
        if not off or len(off) > len(errors) // 2:
            return None
        told = (
            f"{suspect.where}: {len(off)} of {len(errors)} tokens are off, the first at {off[0]}; the others are right"
        )
        return "damaged numbers", told

    def _find_scale(self, suspect: Suspect) -> tuple[str, str] | None:
        if suspect.values.shape != suspect.expected.shape:
            return None
        values, expected = suspect.values.double(), suspect.expected.double()
        scale = float((values * expected).sum() / expected.square().sum())
        if scale == 0 or not self._is_near(values / scale, suspect.expected):
            return None
        return "scaled numbers", f"{suspect.where}: its numbers are those of its caption times {scale:.4g}"

    def _find_codec(self, suspect: Suspect) -> tuple[str, str] | None:
        claimed = self.claims.storage
        if not find_codec(claimed).is_plain:
            return None
        data = to_bytes(suspect.values.to(working_dtype(claimed)), claimed)
        for name in STORAGE_DTYPES:
            width = find_codec(name).token_bytes(self.claims.dim)
            if name == claimed or not find_codec(name).is_plain or width is None or data.size % width:
                continue
            if self._is_near(from_bytes(data.reshape(-1, width), name, self.claims.dim).float(), suspect.expected):
                return "another storage dtype", f"{suspect.where}: its bytes are {name}, and not {claimed}"
        return None

    def _find_row(self, suspect: Suspect) -> tuple[str, str] | None:
        others = [*self.neighbours(suspect.prepared), *self.likely(suspect.values)]
        found = self._find_prompt(suspect, [(other.where, other.prompt) for other in others])
        if found is None:
            return None
        return "embeddings of other rows", f"{suspect.where}: its embedding is that of {found}"

    def _find_prompt(self, suspect: Suspect, candidates: Sequence[tuple[str, Prompt]]) -> str | None:
        """The name of the first prompt whose embedding the suspect has."""
        seen = {suspect.prepared.prompt.key}
        for name, prompt in candidates:
            if prompt.rows != len(suspect.values) or prompt.key in seen:
                continue
            seen.add(prompt.key)
            try:
                expected = self.encode([prompt])[0]
            except InputError:
                continue  # longer than a stream
            if self._is_near(suspect.values, expected):
                return name
        return None

    def _find_length(self, suspect: Suspect) -> tuple[str, str] | None:
        lengths = dict.fromkeys([len(suspect.values), *LENGTHS])
        preparers = ((str(length), self._prepare_with(length)) for length in lengths if length)
        found = self._find_prompt(suspect, list(self._prepare(suspect, preparers)))
        if found is None:
            return None
        claimed = self.preparer.tokenizer.max_length
        return (
            "another max_length",
            f"{suspect.where}: its numbers are those under max_length {found}, and not {claimed}",
        )

    def _prepare_with(self, length: int) -> Preparer | None:
        tokenizer = replace(self.preparer.tokenizer, max_length=length)
        if self.preparer.recipe is None:
            return Preparer(tokenizer=tokenizer)
        return _make_preparer(self.preparer, replace(self.preparer.recipe, longest=None, max_length=length))

    def _find_recipe(self, suspect: Suspect) -> tuple[str, str] | None:
        found = self._find_prompt(suspect, list(self._prepare(suspect, self._recipes.items())))
        if found is None:
            return None
        claimed = "no recipe" if self.preparer.recipe is None else f"recipe {self.preparer.recipe.name}"
        return "another recipe", f"{suspect.where}: its numbers are those under {found}, and not under {claimed}"

    @cached_property
    def _recipes(self) -> dict[str, Preparer | None]:
        """All that the model may have, and none."""
        kind = find_kind(self.config, self.preparer.tokenizer)
        plain = Preparer(tokenizer=self.preparer.tokenizer)
        fitting = {name: recipe for name, recipe in RECIPES.items() if recipe.encoder == kind}
        made = {f"recipe {name}": _make_preparer(self.preparer, recipe) for name, recipe in fitting.items()}
        return {"no recipe": plain, **made}

    def _prepare(
        self, suspect: Suspect, preparers: Iterable[tuple[str, Preparer | None]]
    ) -> Iterator[tuple[str, Prompt]]:
        for name, preparer in preparers:
            if preparer is not None:
                yield name, preparer.prepare([suspect.prepared.caption]).prompts[0]

    def _find_dtype(self, suspect: Suspect) -> tuple[str, str] | None:
        values, expected = suspect.values, suspect.expected
        if values.shape != expected.shape or (off := measure(values, expected).row) > OFF_BY_A_DTYPE:
            return None
        storing = self.bound.measure_storing(expected).row
        for dtype in DTYPES:
            if dtype == self.claims.dtype:
                continue
            rounded = self.load(dtype)([suspect.prepared.prompt])[0]
            if off <= MARGIN_OF_COMPUTING * measure(rounded, expected).row + MARGIN_OF_STORING * storing:
                told = (
                    f"{suspect.where}: off by {off:.1e}, as far as computing in {dtype} is, and not {self.claims.dtype}"
                )
                return "another compute dtype", told
        return None


def _make_preparer(like: Preparer, recipe: Recipe) -> Preparer | None:
    """A recipe with the same tokenizer; None where a library is missing that it needs."""
    try:
        return Preparer.under(recipe, like.tokenizer)
    except ConfigError:
        return None


def pool(values: Tensor) -> Tensor:
    """(T, M) -> (M,): the mean of its tokens, by which embeddings are found that are alike."""
    return values.float().mean(dim=0) if len(values) else torch.zeros(values.shape[1])
