"""Whether an output is what its job says: rows drawn by seed, their captions encoded again in float32, and compared."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from t5enc.checkpoint.checkpoint import Checkpoint
from t5enc.checkpoint.opening import open_model
from t5enc.checkpoint.repository import open_projection
from t5enc.checks.output.captions import CaptionFiles
from t5enc.checks.output.claims import Claims, read_claims
from t5enc.checks.output.comparison import Comparison
from t5enc.checks.output.diagnosis import DTYPES, Other, Suppositions
from t5enc.checks.output.distances import NEAREST, Bound, Distance, farthest, measure
from t5enc.checks.output.encoding import Encode, load_ours, load_theirs
from t5enc.checks.output.findings import Findings
from t5enc.checks.output.prepared import PreparedRows
from t5enc.checks.output.report import OutputReport
from t5enc.checks.output.row_checks import PreparedRow
from t5enc.checks.output.shards import Shards, draw_rows
from t5enc.checks.output.stored import StoredRows
from t5enc.errors import ConfigError
from t5enc.options import EncoderOptions
from t5enc.output import OutputFolder, open_output
from t5enc.recipes.describe import describe_line
from t5enc.storage.filesystems import hide_credentials
from t5enc.text.preparer import Preparer, open_preparer

Against = Literal["t5enc", "transformers"]
AGAINST: tuple[Against, ...] = ("t5enc", "transformers")
ROWS = 256
# Rows beside one that are tried for being whose embedding it has.
BESIDE = (-1, 1, -2, 2)
# Rows by which it is measured what a dtype is off by.
MEASURED = 32
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """What encodes again."""

    options: EncoderOptions
    checkpoint: Checkpoint
    preparer: Preparer
    against: Against
    batch_size: int

    def load(self) -> Encode:
        """In float32."""
        if self.against == "transformers":
            return load_theirs(self.options, self.checkpoint, batch_size=self.batch_size)
        return load_ours(self.options, self.checkpoint)

    def load_dtype(self, dtype: str) -> Encode:
        """Ours in another dtype."""
        return load_ours(self.options, self.checkpoint, dtype=dtype)

    def find_dim(self) -> int:
        """The width of a token's embedding."""
        variant, width = self.options.source.variant, self.checkpoint.config.model_dim
        repository, host = self.checkpoint.repository, torch.device("cpu")
        projection = open_projection(self.preparer.recipe, repository, variant, host, model_dim=width)
        return width if projection is None else len(projection[0])


def verify_output(
    path: str | os.PathLike[str],
    *,
    rows: int | None = ROWS,
    seed: int = 0,
    against: Against = "t5enc",
    captions: Sequence[str | os.PathLike[str]] = (),
    model: str | None = None,
    place: Mapping[str, Any] | None = None,
    device: str = "auto",
    batch_size: int = 8,
    progress: Progress = lambda _: None,
) -> OutputReport:
    """Check about `rows` rows of an output, finished or not, or all where it is None.

    `captions` are input files or folders, each PATH or NAME=PATH, for rows whose own were not kept; `model` and `place`
    (its subfolder, revision, ...) stand for what the job notes. OutputError for what is no output, ConfigError without
    a model or captions, or with a model that does not fit the job's recipe.
    """
    _check_options(rows, against)
    shown, findings = hide_credentials(os.fspath(path)), Findings()
    folder = open_output(path, partial=True)
    claims = read_claims(folder)
    shards = Shards(folder, claims, findings)
    files = _open_captions(captions, shards, claims)
    progress("the model")
    opened = _open_model(claims.make_options(model, place or {}, device=device), against, batch_size)
    _check_model(opened, claims, findings)
    numbers = draw_rows(shards.counts, rows, seed)
    stored = StoredRows(os.fspath(path), shards, findings)
    prepared = PreparedRows(stored, files, claims, opened.preparer, findings)
    compared, causes = _compare(opened, prepared, numbers, folder, progress)
    shards.close()
    recipe = opened.preparer.recipe
    return OutputReport(
        output=shown,
        is_finished=folder.is_finished,
        model=opened.checkpoint.name,
        recipe="none" if recipe is None else describe_line(recipe),
        max_length=opened.preparer.tokenizer.max_length,
        dtype=claims.dtype,
        storage=claims.storage,
        against=against,
        device=str(opened.options.resolve(opened.checkpoint.config, max_length=opened.preparer.longest).device),
        seed=seed,
        rows=int(shards.offsets[-1]),
        drawn=len(numbers),
        shards=len(shards),
        compared=compared.compared,
        missing=prepared.missing,
        captions=_describe_captions(files, claims),
        bound=compared.bound.describe(),
        farthest=compared.farthest,
        nearest_limit=compared.nearest_limit,
        checks=tuple(findings.made),
        causes=tuple(causes),
    )


def _check_options(rows: int | None, against: str) -> None:
    if rows is not None and rows < 1:
        raise ConfigError(f"rows: expected at least 1, or all, got {rows}")
    if against not in AGAINST:
        raise ConfigError(f"against: expected one of {', '.join(AGAINST)}, got {against!r}")


def _open_captions(paths: Sequence[Any], shards: Shards, claims: Claims) -> CaptionFiles | None:
    """Where captions are read; None where the output has them. ConfigError where nothing does."""
    name = claims.text_column
    if paths and name is not None:
        return CaptionFiles(paths, name)
    if claims.keeps_captions or not shards.is_there.any():
        return None
    raise ConfigError(
        f"captions: expected the files that were encoded with --captions, since this output did not keep its column "
        f"{name!r}, got none"
    )


def _describe_captions(files: CaptionFiles | None, claims: Claims) -> str:
    if files is None:
        return "kept in the output"
    return (
        "kept in the output, or else read from the files given"
        if claims.keeps_captions
        else "read from the files given"
    )


def _open_model(options: EncoderOptions, against: Against, batch_size: int) -> _Model:
    checkpoint = open_model(options.source)
    preparer = open_preparer(options, checkpoint)
    return _Model(options=options, checkpoint=checkpoint, preparer=preparer, against=against, batch_size=batch_size)


def _check_model(opened: _Model, claims: Claims, findings: Findings) -> None:
    """Weights and tokenizer by their fingerprints, as far as the job knows them, and the width."""
    name, dim = opened.checkpoint.name, opened.find_dim()
    if claims.knows("weights"):
        expected, got = str(claims.identity["weights"])[:12], opened.checkpoint.fingerprint()[:12]
        findings.compare("model", f"weights of {name}", expected=expected, got=got)
    if claims.knows("tokenizer"):
        expected, got = str(claims.identity["tokenizer"])[:12], opened.preparer.tokenizer.fingerprint[:12]
        findings.compare("tokenizer", f"tokenizer of {name}", expected=expected, got=got)
    if dim != claims.dim:
        findings.compare("labels", f"width of {name}", expected=claims.dim, got=dim)


def _compare(
    opened: _Model, prepared: PreparedRows, numbers: NDArray[np.int64], folder: OutputFolder, progress: Progress
) -> tuple[Comparison, list[str]]:
    """All rows, then why some are off; of a model of another width nothing can be compared."""
    claims = prepared.claims
    pieces = prepared.read(numbers, progress)
    if opened.find_dim() != claims.dim:
        for _ in pieces:
            pass
        return Comparison(_bound(claims, NEAREST), lambda _: [], prepared.findings), []
    computing, encode = _load(opened, prepared, numbers, progress)
    comparison = Comparison(_bound(claims, computing), encode, prepared.findings)
    for piece in pieces:
        comparison.add(piece)
    _check_null(opened, claims, folder, comparison)
    if not comparison.suspects:
        return comparison, []
    progress("what is wrong")
    return comparison, _suppose(opened, prepared, comparison).explain(comparison.suspects)


def _bound(claims: Claims, computing: Distance) -> Bound:
    return Bound(dtype=claims.dtype, storage=claims.storage, computing=computing)


def _load(
    opened: _Model, prepared: PreparedRows, numbers: NDArray[np.int64], progress: Progress
) -> tuple[Distance, Encode]:
    """How far the job's dtype is off, by our encoder on some rows, and the encoder in float32.

    Of an imported output nobody knows the dtype: the worse one is supposed.
    """
    claims = prepared.claims
    dtype = claims.dtype if claims.knows("dtype") else "bfloat16"
    prompts, rounded = [], []
    if dtype in DTYPES:
        progress(f"the model in {dtype}, to measure what it is off by")
        prompts = [row.prompt for row in prepared.sample(numbers, MEASURED)]
        rounded = opened.load_dtype(dtype)(prompts)
    progress("the model in float32")
    encode = opened.load()
    pairs = zip(rounded, encode(prompts) if rounded else [], strict=True)
    return farthest([measure(found, exact) for found, exact in pairs if found.isfinite().all()]), encode


def _check_null(opened: _Model, claims: Claims, folder: OutputFolder, comparison: Comparison) -> None:
    """The null prompt of a recipe that has one, stored in the working dtype of its codec."""
    null = None if folder.conditioning is None else folder.conditioning.null
    prompt = opened.preparer.prepare_null()
    if null is None or prompt is None:
        return
    expected = comparison.encode([prompt])[0]
    bound = Bound(
        dtype=claims.dtype, storage=str(null.dtype).removeprefix("torch."), computing=comparison.bound.computing
    )
    if null.shape != expected.shape:
        comparison.findings.compare("null prompt", "shape", expected=tuple(expected.shape), got=tuple(null.shape))
        return
    found, limit = measure(null, expected), bound.limit(expected)
    told = f"expected at most {limit.row:.1e} off, got {found.row:.1e}"
    comparison.findings.add("null prompt", not found.exceeds(limit), told)


def _suppose(opened: _Model, prepared: PreparedRows, comparison: Comparison) -> Suppositions:
    def find_beside(row: PreparedRow) -> list[Other]:
        last = int(prepared.stored.shards.offsets[-1])
        numbers = [row.row.number + step for step in BESIDE]
        found = prepared.read_near([number for number in numbers if 0 <= number < last])
        return [Other(where=one.row.where, prompt=one.prompt) for one in found]

    return Suppositions(
        claims=prepared.claims,
        config=opened.checkpoint.config,
        preparer=opened.preparer,
        bound=comparison.bound,
        encode=comparison.encode,
        load=opened.load_dtype,
        neighbours=find_beside,
        likely=comparison.find_likely,
    )
