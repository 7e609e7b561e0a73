"""A file a caption: rows are named first, and then written a row group at a time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import numpy as np

from t5enc.trainers.files import write_file
from t5enc.trainers.format import CaptionFormat
from t5enc.trainers.naming import Plan, make_plan
from t5enc.trainers.progress import ExportReport
from t5enc.trainers.rows import Shard, open_shards, read_rows
from t5enc.trainers.run import Run, find_extras, map_bounded, write_extras

# A row group of a shard, and the numbers of its rows in the output that a file is written of.
Work = tuple[Shard, int, set[int]]


def export_captions(run: Run, format_: CaptionFormat) -> ExportReport:
    """Write what is missing. OutputError, before the first file, for what cannot be written."""
    shards = list(open_shards(run.folder, run.columns))
    run.target.record.date(shard.mark for shard in shards)
    plan = make_plan(shards, run.columns, format_, run.given, run.target, run.ticks.name)
    extras = find_extras(run, format_.make_extras(run.given))
    run.begin(plan.count + len(extras))
    files, size = write_extras(run, extras)
    for written in map_bounded(partial(_write_group, run, format_), _list_groups(plan), run.jobs):
        files, size = files + written[0], size + written[1]
    run.end()
    return ExportReport(files=files, bytes=size, whole=plan.whole, shared=plan.shared, without=dict(plan.without))


def _list_groups(plan: Plan) -> Iterator[Work]:
    for shard, todo in plan.shards:
        starts = shard.group_starts()
        for group, (start, stop) in enumerate(pairwise(starts)):
            rows = np.flatnonzero(todo[start:stop]) + start + shard.first
            if len(rows):
                yield shard, group, set(rows.tolist())


def _write_group(run: Run, format_: CaptionFormat, work: Work) -> tuple[int, int]:
    """Files and bytes of one row group."""
    shard, group, rows = work
    total = 0
    for caption, values in read_rows(shard, run.columns, group):
        if caption.row in rows:
            name = format_.name_file(caption)
            assert name is not None
            path = run.target.folder / name
            size = write_file(path, [format_.make_file(caption, values, run.given)])
            run.ticks.write(1, size)
            total += size
    return len(rows), total
