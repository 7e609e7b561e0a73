"""Export: the files of a trainer's cache from an output, in threads, as often as it is killed and run again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pyarrow.fs import LocalFileSystem

from t5enc.errors import ConfigError
from t5enc.output import OutputFolder, open_output
from t5enc.trainers.acceptance import check_recipe, check_storage, read_given
from t5enc.trainers.caption_files import export_captions
from t5enc.trainers.format import CaptionFormat, Format, Given, ShardFormat
from t5enc.trainers.formats.webdataset import WebDataset
from t5enc.trainers.progress import ExportReport, Ticks
from t5enc.trainers.record import hold, open_record
from t5enc.trainers.registry import build_format
from t5enc.trainers.rows import Columns
from t5enc.trainers.run import Run, count_threads
from t5enc.trainers.shard_files import export_shards
from t5enc.trainers.tar_sets.export import export_like
from t5enc.trainers.target import Target

CAPTION, PATH = "caption", "image_path"


def export_embeddings(
    format_: str | CaptionFormat | ShardFormat,
    output: str | os.PathLike[str],
    to: str | os.PathLike[str],
    *,
    options: Mapping[str, str] | None = None,
    caption_column: str | None = None,
    stem_column: str = PATH,
    caption_index: int | None = None,
    jobs: int | None = None,
    link: bool = False,
    overwrite: bool = False,
    allow_lossy: bool = False,
    ticks: Ticks | None = None,
) -> ExportReport:
    """Write the cache of a trainer into the folder `to`: `format_` is one of FORMATS, or one that was built.

    `caption_column` is that of the job unless it is given, and has what the trainer will read; `stem_column` has the
    names or paths of images or videos where files are called after them. `caption_index` chooses of several captions a
    row, the first being 0. Run again, what is there and whole is left as it is. `jobs` threads read, make and write,
    each a row group of about 8 MB at a time. `link` makes hard links of shards where the format can. Raises ConfigError
    or OutputError before the first file for what cannot be exported: another recipe, lossy numbers (but with
    `allow_lossy`), names that two captions share, files of somebody else's (but with `overwrite`).
    """
    made = build_format(format_, options) if isinstance(format_, str) else format_
    folder, target = open_output(output), find_target(to)
    given = read_given(folder)
    check_recipe(made, given)
    note = check_storage(made, given, allow_lossy=allow_lossy)
    columns = choose_columns(folder, made, caption_column, None if link else stem_column)
    columns = replace(columns, index=caption_index)
    if link and not isinstance(made, ShardFormat):
        raise ConfigError(f"--link: expected a format whose files may be our shards, got {made.name}")
    if link and caption_index is not None:
        raise ConfigError("--link, --caption-index: expected one of them: a shard has all captions of its rows")
    check_apart(folder, target)
    with hold(target):
        record = open_record(target, describe_export(made, given, columns))
        run = Run(
            folder=folder,
            given=given,
            columns=columns,
            target=Target(folder=target, record=record, overwrite=overwrite),
            ticks=ticks or Ticks(),
            jobs=jobs or count_threads(),
            link=link,
        )
        if isinstance(made, WebDataset) and made.like:
            report = export_like(run, made, output)
        elif isinstance(made, ShardFormat):
            report = export_shards(run, made)
        else:
            report = export_captions(run, made)
    return replace(report, note="; ".join(filter(None, (note, report.note))) or None)


def find_target(to: str | os.PathLike[str]) -> Path:
    """The folder to write to; ConfigError for a URI."""
    if "://" in os.fspath(to):
        raise ConfigError(f"to: expected a folder of this machine, got {os.fspath(to)}")
    return Path(to).expanduser()


def check_apart(folder: OutputFolder, target: Path) -> None:
    """ConfigError where files would be written into the output."""
    root, wanted = Path(folder.root).resolve(), target.resolve()
    if isinstance(folder.filesystem, LocalFileSystem) and (root == wanted or root in wanted.parents):
        raise ConfigError(f"to: expected a folder outside the output, got {target}, which {folder.root} holds")


def choose_columns(folder: OutputFolder, format_: Format, caption: str | None, path: str | None) -> Columns:
    """Where captions are, by default where the job had them from, and stems, if the format asks for them.

    Links need no stems: nothing in them is named anew.
    """
    encoded = folder.job["identity"].get("text_column", CAPTION)
    chosen = encoded if caption is None else caption
    return Columns(
        caption=chosen,
        path=path if format_.needs_path else None,
        more=format_.more_columns,
        encoded=None if chosen == encoded else encoded,
    )


def describe_export(format_: Format, given: Given, columns: Columns) -> dict[str, Any]:
    """What makes two exports the same: the job, the format with its options, and the columns."""
    options = asdict(format_)  # type: ignore[call-overload]
    return {"format": format_.name, "options": options, "job": given.fingerprint, "columns": asdict(columns)}
