"""Files called .parquet that are none: each is named for what it is, with what helps."""

from __future__ import annotations

import base64
import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.fs as pafs
import pyarrow.orc as orc
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from pipelines.inputs.footers import read_footer
from pipelines.inputs.sources import SourceFile
from t5enc.errors import SourceError

TABLE = pa.table({"caption": [f"a red bird {i}" for i in range(100)]})


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(TABLE, sink)
    return sink.getvalue()


def arrow(write: Callable[[io.BytesIO], object]) -> bytes:
    sink = io.BytesIO()
    write(sink)
    return sink.getvalue()


def ipc_stream(sink: io.BytesIO) -> None:
    with pa.ipc.new_stream(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)


def zipped(sink: io.BytesIO) -> None:
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("a.parquet", parquet())


def tarred(sink: io.BytesIO) -> None:
    with tarfile.open(fileobj=sink, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.parquet"))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456\n"
CASES = {
    "pointer": (POINTER, "a Git LFS pointer in the place of the file: run `git lfs pull`"),
    "page": (b"\n<!DOCTYPE html><html><head><title>Not found</title></head></html>", "an HTML page"),
    "answer": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML page"),
    "rows": (b"caption,url\na red bird,http://x\n", "text that begins with 'caption,url': write it as Parquet first"),
    "lines": ('{"caption": "ein Vögelein"}\n'.encode(), 'JSON that begins with \'{"caption": '),
    "letters": (("é" * 400).encode()[:-1], "text that begins with 'éééé"),
    "gzip": (gzip.compress(parquet()), "a gzip archive: unpack it first"),
    "zip": (arrow(zipped), "a zip archive: unpack it first"),
    "tar": (arrow(tarred), "a tar archive: unpack it first"),
    "feather": (arrow(lambda sink: feather.write_feather(TABLE, sink)), r"an Arrow IPC \(Feather\) file: write it"),
    "stream": (arrow(ipc_stream), "a stream of Arrow IPC: write it as Parquet first"),
    "orc": (arrow(lambda sink: orc.write_table(TABLE, sink)), "an ORC file: write it as Parquet first"),
    "encrypted": (b"PARE" + b"\x93" * 90 + b"PARE", "an encrypted one: decrypt it first"),
    "cut": (parquet()[:300], "the beginning of one, cut short: download or copy it again"),
    "all but its last byte": (parquet()[:-1], "the beginning of one, cut short"),
    "tiny": (b"PAR1", "the beginning of one, cut short"),
    "tail": (parquet()[300:], "the end of one, without its beginning: download or copy it again"),
    "zeros": (bytes(200_000), "200000 bytes that are zero, as an interrupted copy leaves them"),
    "empty": (b"", "an empty file: download or copy it again"),
    "noise": (bytes(range(128, 256)), r"128 bytes that end in b'\\xfc\\xfd\\xfe\\xff': cut short, or another format"),
    "control": (b"\x01\x02\x03", r"3 bytes that end in b'\\x01\\x02\\x03'"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_that_is_no_parquet_is_named_for_what_it_is(tmp_path: Path, name: str) -> None:
    content, expected = CASES[name]
    path = tmp_path / "a.parquet"
    path.write_bytes(content)
    file = SourceFile(source="in/a.parquet", path=str(path), size=len(content), partitions=())
    with pytest.raises(SourceError, match=rf"^in/a\.parquet: expected a Parquet file, got {expected}"):
        read_footer(pafs.LocalFileSystem(), file)


class Vault(pe.KmsClient):  # type: ignore[misc]
    """Keeps keys as they are."""

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        return base64.b64encode(key_bytes)


@pytest.mark.parametrize(
    ("plaintext_footer", "expected"), [(False, "an encrypted one"), (True, "one with encrypted columns")]
)
def test_encrypted_parquet_is_told_before_any_column_is_looked_at(
    tmp_path: Path, plaintext_footer: bool, expected: str
) -> None:
    """pyarrow ends the process where it is asked about an encrypted column's chunk."""
    config = pe.EncryptionConfiguration(
        footer_key="f", column_keys={"c": ["caption"]}, plaintext_footer=plaintext_footer
    )
    factory = pe.CryptoFactory(lambda _: Vault())
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), config)
    path = tmp_path / "a.parquet"
    with pq.ParquetWriter(path, TABLE.schema, encryption_properties=properties) as writer:
        writer.write_table(TABLE)
    file = SourceFile(source="a.parquet", path=str(path), size=path.stat().st_size, partitions=())
    with pytest.raises(SourceError, match=rf"^a\.parquet: expected a Parquet file, got {expected}: decrypt it first"):
        read_footer(pafs.LocalFileSystem(), file)
