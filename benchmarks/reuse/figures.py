"""What reuse costs: the index of very many keys, and copying rows beside encoding them, with T5-base's shape on a CPU.

Keys are drawn, sorted into an index as those of an earlier output are, and looked up a thousand at a time, every
second one of them there. Then captions are encoded into shards, and the same shards are made again of the rows of the
first ones. MB are of embeddings as they are stored, for each CPU second; what is copied is looked up, read, checked,
serialized, hashed and written.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmarks.conditions.corpus import add_prompts, draw_prompts, make_checkpoint, make_parser
from benchmarks.conditions.machine import Machine, judge, publish
from benchmarks.reuse.copying import measure_copying
from benchmarks.reuse.keys import measure_index

KEYS = 10**8
# As often as encoding in the same time, and MB a second of one core.
FASTER, COPIED = 20, 500
CAPTIONS, UNITS = 192, 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Build an index, encode shards and copy them, and print."""
    parser = make_parser(__doc__)
    add_prompts(parser)
    parser.add_argument("--keys", type=int, default=KEYS, help="keys of the index (default 10^8)")
    options = parser.parse_args(arguments)
    machine = Machine()
    if options.quick:
        options.keys = min(options.keys, 10**5)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        index = measure_index(Path(folder), options.keys)
        model = make_checkpoint("smoke" if options.quick else "base")
        texts = draw_prompts(options.prompts, 8 if options.quick else CAPTIONS)
        copying = measure_copying(Path(folder), str(model), texts, 2 if options.quick else UNITS)
    figures = {"benchmark": "reuse", "index": index, "copying": copying}
    publish(make_table(index, copying), machine, figures, options)


def make_table(index: dict[str, Any], copying: dict[str, Any]) -> Table:
    """A row a figure."""
    table = Table("what", "figure", title="reuse", title_justify="left")
    table.add_row("keys", f"{index['keys']:,}")
    table.add_row("index built", f"{index['seconds']:,.1f} s")
    table.add_row("its bytes", f"{index['bytes'] / 1e9:,.2f} GB")
    table.add_row("memory that building takes", f"{index['bytes_peak'] / 1e6:,.0f} MB")
    table.add_row("keys looked up", f"{index['lookups_a_second']:,.0f} a second")
    table.add_row("rows encoded into shards", f"{copying['encoding_mb_a_second']:,.2f} MB a CPU second")
    table.add_row("rows looked up and read", f"{copying['reading_mb_a_second']:,.0f} MB a CPU second")
    table.add_row("rows copied into shards in memory", f"{copying['copying_mb_a_second']:,.0f} MB a CPU second")
    table.add_row("and those written and flushed", f"{copying['written_mb_a_second']:,.0f} MB a CPU second")
    table.caption = (
        f"copied, MB a CPU second {judge(copying['copying_mb_a_second'], COPIED)}; "
        f"faster than encoding {judge(copying['times_faster'], FASTER)}"
    )
    return table
