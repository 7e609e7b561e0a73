"""A file a shard: made of its rows in order, or the shard itself under another name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial

import pyarrow.fs
from torch import Tensor

from t5enc.errors import ConfigError, OutputError
from t5enc.storage.layout import SHARED
from t5enc.trainers.files import check_name, link_file, list_files, write_file
from t5enc.trainers.format import Caption, Pieces, ShardFormat, ShardRows
from t5enc.trainers.progress import ExportReport
from t5enc.trainers.rows import Shard, open_shards, read_captions, read_rows
from t5enc.trainers.run import Run, find_extras, find_index, map_bounded, write_extras

SHOWN = 3
NO_LINK = "{} shards were copied: the disk of the folder has no hard links to them"


def export_shards(run: Run, format_: ShardFormat) -> ExportReport:
    """Write what is missing. OutputError, before the first file, for what cannot be written."""
    shards = list(open_shards(run.folder, run.columns))
    _refuse_others(run, format_, {format_.name_shard(shard.describe()) for shard in shards})
    run.target.record.date(map(_name_part, shards))
    without, counts, todo = _look(run, format_, shards)
    extras = find_extras(run, format_.make_extras(run.given))
    index = find_index(run, format_.make_index(counts), is_stale=bool(todo))
    run.begin(len(todo) + len(extras) + len(index))
    files, size = write_extras(run, extras)
    sizes = [written for _, written in map_bounded(partial(_make, run, format_), iter(todo), run.jobs)]
    indexed = write_extras(run, index)
    run.end()
    linked = sizes.count(0) if run.link else 0
    return ExportReport(
        files=files + len(sizes) + indexed[0],
        bytes=size + sum(sizes) + indexed[1],
        linked=linked,
        whole=len(shards) - len(todo),
        without=dict(without),
        note=NO_LINK.format(len(sizes) - linked) if run.link and linked < len(sizes) else None,
    )


def _look(
    run: Run, format_: ShardFormat, shards: list[Shard]
) -> tuple[Counter[str], list[tuple[ShardRows, int]], list[Shard]]:
    """Rows without a file by reason, captions with rows of each shard, and the shards whose file is missing."""
    if run.link and not isinstance(run.folder.filesystem, pyarrow.fs.LocalFileSystem):
        raise ConfigError(f"--link: expected shards on a local disk, got {run.given.root}")
    without: Counter[str] = Counter()
    counts, todo = [], []
    for shard in shards:
        if run.link and (reason := _explain_link(run, format_, shard)) is not None:
            raise ConfigError(f"--link: {shard.path}: {format_.name} cannot have this shard as it is: {reason}")
        count = 0
        seen: dict[str, int] = {}
        for caption in read_captions(shard, run.columns):
            if isinstance(caption, str):
                without[caption] += 1
                continue
            count += 1
            if (reason := format_.check_caption(caption, run.given)) is not None:
                raise OutputError(f"{shard.path}: row {caption.row}, {caption.text[:80]!r}: {reason}")
            key = format_.name_row(caption)
            if key is not None and (earlier := seen.setdefault(key, caption.row)) != caption.row:
                raise OutputError(
                    f"{shard.path}: expected a key of its own for row {caption.row}, got {key!r} of row {earlier}"
                )
        run.ticks.name(shard.num_rows)
        counts.append((shard.describe(), count))
        if _is_missing(run, format_, shard):
            todo.append(shard)
    return without, counts, todo


def _explain_link(run: Run, format_: ShardFormat, shard: Shard) -> str | None:
    """Why a shard cannot be a file as it is, if it cannot."""
    if shard.shared is not None:
        return f"rows refer to embeddings in {SHARED}/, which the loader does not know; without --link they are copied"
    return format_.explain_link(shard.describe(), run.given)


def _is_missing(run: Run, format_: ShardFormat, shard: Shard) -> bool:
    name = format_.name_shard(shard.describe())
    if (wrong := check_name(name)) is not None:
        raise OutputError(f"{shard.path}: expected a name that a file can have, got {name!r}: {wrong}")
    if run.link and run.target.is_linked(name, shard.path):
        return False
    return run.target.is_missing(name, run.target.look(name, None, _name_part(shard)))


def _refuse_others(run: Run, format_: ShardFormat, ours: set[str]) -> None:
    """OutputError for what a reader would take for a part of this export, as that of an output with more shards."""
    found = list_files(run.target.folder)
    others = sorted(name for name in found if name not in ours and format_.is_read(name))
    if others:
        raise OutputError(
            f"{run.target.folder}: expected no files beside this export's that its reader takes for part of it; "
            f"remove {', '.join(others[:SHOWN])}{', ...' if len(others) > SHOWN else ''} ({len(others)} in all)"
        )


def _name_part(shard: Shard) -> str:
    """What a file is of: a shard, and where it stands among others, as its name says."""
    return f"{shard.index} {shard.mark}"


def _make(run: Run, format_: ShardFormat, shard: Shard) -> tuple[int, int]:
    """One file, and its bytes."""
    path = run.target.folder / format_.name_shard(shard.describe())
    size = link_file(path, shard.path) if run.link else write_file(path, _make_pieces(run, format_, shard))
    run.ticks.write(1, size)
    return 1, size


def _make_pieces(run: Run, format_: ShardFormat, shard: Shard) -> Iterator[Pieces]:
    return format_.make_shard(shard.describe(), _read_all(run, shard), run.given)


def _read_all(run: Run, shard: Shard) -> Iterator[tuple[Caption, Tensor]]:
    for group in range(shard.metadata.num_row_groups):
        yield from read_rows(shard, run.columns, group)
