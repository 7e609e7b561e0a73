"""Where things lie in an output of format 2: shards, and nothing else, in one folder, and what a job notes in another.

Readers sort paths as texts, or part by part, and `-`, `.` and `%` come before `/`: `a-b/0` is before `a/0` in the one
order and after it in the other. So each part of a source's name gets an end that no other part holds, and both orders
are the same. Nothing in a part may look like a partition, a hidden file, or the split of a data set either.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from urllib.parse import quote

FORMAT_VERSION = 2

DATA = "data"
CARD = "README.md"
SUCCESS = "_SUCCESS"
REPORT = "report.json"
PAGE = "report.html"
# An output of its own, with the embeddings that rows of `data/` refer to where equal ones are stored once.
SHARED = "shared"
NOTES = "_t5enc"
JOB = f"{NOTES}/job.json"
ASKED = f"{NOTES}/asked.json"
PLAN = f"{NOTES}/plan"
MANIFEST = f"{NOTES}/manifest"
SOURCES = f"{NOTES}/sources"
NULL = f"{NOTES}/null.safetensors"
LOG = f"{NOTES}/log"
TEMPORARY = f"{NOTES}/tmp"
STALE = f"{NOTES}/stale"
# Where the job of an output of format 1 lies.
OLD_JOB = "_job.json"
# In the footer of a shard: its row of the manifest, as JSON.
RECORD_KEY = b"t5enc.unit"

PARQUET = ".parquet"
# The last part of a shard's name: its first row, and its unit's id.
SHARD_NAME = re.compile(r"\d{12,}-[0-9a-f]{16}\.parquet")
# What follows a part that is a *.parquet file, a folder, or a file of another name.
FILE_END, FOLDER_END, OTHER_END = "_", "__", "___"
# A part is cut here: object stores take names of 1024 bytes, disks parts of 255.
LONGEST = 160
# Words that `datasets` takes for the name of a split where one of its separators is on either side.
SPLITS = "training|train|validation|valid|val|dev|testing|test|evaluation|eval"
SPLIT = re.compile(rf"(?<![^-._ 0-9])({SPLITS})(?![^-._ 0-9])")
# Underscores that would look like a part's end.
LIKE_AN_END = re.compile(r"_+(?=[-.%]|$)")


def name_shard(source: str, first_row: int, unit_id: str) -> str:
    """The name of a unit's shard. Names sort as sources' folders do, and below those as rows do."""
    return f"{name_folder(source)}/{first_row:012d}-{unit_id}{PARQUET}"


@lru_cache(maxsize=1 << 12)
def name_folder(source: str) -> str:
    """The folder of a source's shards. No two sources have the same, and none lies in another's."""
    *folders, file = source.split("/")
    stem = file.removesuffix(PARQUET)
    last = _quote(stem) + (OTHER_END if stem == file else FILE_END)
    return "/".join([DATA, *(_quote(folder) + FOLDER_END for folder in folders), last])


def _quote(part: str) -> str:
    """A part in letters, digits, `-`, `.`, `_`, `~` and `%XX`: `urllib.parse.unquote` undoes it where it is not cut."""
    text = quote(part, safe="", errors="surrogateescape")
    text = SPLIT.sub(lambda found: found[0][:-1] + _escape(found[0][-1]), text)
    text = LIKE_AN_END.sub(lambda found: _escape("_") * len(found[0]), text)
    if text.startswith((".", "_")):
        text = _escape(text[0]) + text[1:]
    if len(text) > LONGEST:
        digest = hashlib.sha256(part.encode(errors="surrogateescape")).hexdigest()
        text = f"{text[: LONGEST - 17]}~{digest[:16]}"
    return text or "%"


def _escape(sign: str) -> str:
    return f"%{ord(sign):02X}"


def is_shard(name: str) -> bool:
    """Whether an object lies where shards do, and is called like one."""
    return name.startswith(f"{DATA}/") and name.endswith(PARQUET)
