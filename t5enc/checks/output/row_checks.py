"""What is checked of one row beside its numbers: its columns against each other, and against its caption.

T tokens, M model dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from t5enc.checks.output.claims import Claims
from t5enc.checks.output.findings import Findings
from t5enc.checks.output.stored import StoredRow
from t5enc.text.content_keys import hash_prompt
from t5enc.text.prompts import Prompt

# Why a row has no embedding where there was nothing to encode; all other reasons are of captions that are there.
NOTHING_TO_ENCODE = ("no caption", "null caption", "not UTF-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRow:
    """A row that has an embedding, and its caption as it is encoded under the job's recipe."""

    row: StoredRow
    caption: str
    prompt: Prompt
    truncated: bool


def check_missing(row: StoredRow, findings: Findings, caption: str | None, *, is_known: bool) -> None:
    """A row without an embedding: it has a reason, and no caption where that says so."""
    columns = row.columns
    faults = [
        f"{name} {columns[name]!r}"
        for name, nothing in (("num_tokens", 0), ("shape", None), ("key", None), ("truncated", False))
        if columns.get(name, nothing) != nothing
    ]
    reason = str(columns["error"])
    if not reason.strip():
        faults.append("no reason")
    if is_known and reason in NOTHING_TO_ENCODE and caption is not None:
        faults.append(f"a caption beside {reason!r}")
    findings.add(
        "no embedding", not faults, f"{row.where}: expected a reason and nothing else, got {', '.join(faults)}"
    )


def check_labels(row: StoredRow, claims: Claims, findings: Findings) -> None:
    """A row's dtype and shape, as far as the row itself tells."""
    columns = row.columns
    expected = claims.storage, [columns["num_tokens"], claims.dim]
    findings.compare(
        "labels", row.where, expected=_describe(*expected), got=_describe(columns["dtype"], columns["shape"])
    )


def _describe(dtype: object, shape: object) -> str:
    return f"{dtype} {shape}"


def check_caption(prepared: PreparedRow, claims: Claims, findings: Findings) -> None:
    """A row's counts, flag and key against its caption."""
    row, prompt = prepared.row, prepared.prompt
    found = [row.columns["num_tokens"], *([] if row.values is None else [len(row.values)])]
    told = f"num_tokens {found[0]}" + (f", stored {found[1]}" if len(found) > 1 else "")
    findings.add("num_tokens", set(found) == {prompt.rows}, f"{row.where}: expected {prompt.rows} tokens, got {told}")
    findings.compare("truncated", row.where, expected=prepared.truncated, got=row.columns["truncated"])
    if claims.has_keys:
        expected = hash_prompt(claims.computation, prompt)
        findings.compare("key", row.where, expected=expected, got=row.columns.get("key"))


def check_values(row: StoredRow, values: Tensor, findings: Findings) -> bool:
    """Whether an embedding (T, M) is numbers at all: finite, and no token nothing but zeros."""
    bad = (~torch.isfinite(values)).any(dim=1).nonzero().flatten().tolist()
    empty = (values == 0).all(dim=1).nonzero().flatten().tolist()
    is_finite = findings.add("finite", not bad, f"{row.where}: {_name_tokens(bad, len(values))} not finite")
    is_full = findings.add("zeros", not empty, f"{row.where}: {_name_tokens(empty, len(values))} zeros")
    return is_finite and is_full


def _name_tokens(tokens: list[int], count: int) -> str:
    if not tokens:
        return ""
    return f"{len(tokens)} of {count} tokens, the first at {tokens[0]}, {'is' if len(tokens) == 1 else 'are'}"
