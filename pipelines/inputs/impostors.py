"""What a file called .parquet is if it is none, and what helps: told by its first bytes and its last ones."""

from __future__ import annotations

import re

MAGIC = b"PAR1"
ENCRYPTED = b"PARE"
HEAD_BYTES = 512
SHOWN_CHARACTERS = 30
UNPACK = "unpack it first"
CONVERT = "write it as Parquet first"
DECRYPT = "decrypt it first"
AGAIN = "download or copy it again"

# What a file begins with -> what it is, and what to do.
BEGINNINGS = {
    b"version https://git-lfs.github.com/spec/": ("a Git LFS pointer in the place of the file", "run `git lfs pull`"),
    b"<?xml": ("an XML page, such as a store answers with instead of a file", AGAIN),
    b"\x1f\x8b": ("a gzip archive", UNPACK),
    b"PK\x03\x04": ("a zip archive", UNPACK),
    b"\x28\xb5\x2f\xfd": ("a Zstandard archive", UNPACK),
    b"BZh": ("a bzip2 archive", UNPACK),
    b"\xfd7zXZ": ("an xz archive", UNPACK),
    b"ARROW1": ("an Arrow IPC (Feather) file", CONVERT),
    b"FEA1": ("a Feather file", CONVERT),
    b"\xff\xff\xff\xff": ("a stream of Arrow IPC", CONVERT),
    b"ORC": ("an ORC file", CONVERT),
    b"Obj\x01": ("an Avro file", CONVERT),
    b"\x89HDF": ("an HDF5 file", CONVERT),
    b"SQLite format 3\0": ("an SQLite database", CONVERT),
}
PAGE = re.compile(rb"\s*<(!doctype|html|head|body)", re.IGNORECASE)


def describe(head: bytes, tail: bytes, size: int) -> str:
    """What a file of these first and last bytes is, in place of Parquet, and what helps."""
    if not size:
        return f"an empty file: {AGAIN}"
    for beginning, (what, advice) in BEGINNINGS.items():
        if head.startswith(beginning):
            return f"{what}: {advice}"
    if head[:4] == ENCRYPTED or tail[-4:] == ENCRYPTED:
        return f"an encrypted one: {DECRYPT}"
    if head[257:262] == b"ustar":
        return f"a tar archive: {UNPACK}"
    if PAGE.match(head):
        return f"an HTML page, such as a server answers with instead of a file: {AGAIN}"
    if head[:4] == MAGIC:
        return f"the beginning of one, cut short: {AGAIN}"
    if tail[-4:] == MAGIC:
        return f"the end of one, without its beginning: {AGAIN}"
    if not (head + tail).strip(b"\0"):
        return f"{size} bytes that are zero, as an interrupted copy leaves them: {AGAIN}"
    return _describe_text(head) or f"{size} bytes that end in {tail[-4:]!r}: cut short, or another format"


def _describe_text(head: bytes) -> str | None:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # else a character was cut
            return None
        text = head[: error.start].decode()
    if not "".join(text.split()).isprintable():
        return None
    kind = "JSON" if text.lstrip()[:1] in ("{", "[") else "text"
    line = text.strip().partition("\n")[0]
    return f"{kind} that begins with {line[:SHOWN_CHARACTERS]!r}: {CONVERT}"
