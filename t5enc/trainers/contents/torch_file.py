"""Files of `torch.save` as pieces: of tensors that have one shape in all of them, without a copy of the numbers.

Such files differ in the numbers, in the checksums beside them, and in an id that PyTorch makes of all checksums. So one
is saved, and the others are it with these replaced. Whether that gives PyTorch's own bytes is tried once; a release
that makes its files in another way is asked to save each of them.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from t5enc.trainers.format import Pieces
from t5enc.trainers.tensors import view_bytes

ID = "archive/.data/serialization_id"
DATA = "archive/data/"
# Sizes of zip's records, and where a checksum stands in what follows a member and in the directory.
LOCAL, CENTRAL = 30, 46
DESCRIPTOR_CRC, CENTRAL_CRC = 4, 16
POLYNOMIAL, ONE, ALL = 0xEDB88320, 1 << 31, 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Numbers:
    """A tensor's bytes: those of its first numbers, and so many zeros after them."""

    data: memoryview
    zeros: memoryview

    @property
    def checksum(self) -> int:
        """CRC-32 of all of them, for which the zeros are not read."""
        return append_zeros(zlib.crc32(self.data), len(self.zeros))


@dataclass(frozen=True, slots=True)
class Record:
    """A member of the file: where its bytes lie or belong, how many there are, and where its checksum stands."""

    name: str
    start: int
    size: int
    crc: int
    crc_places: tuple[int, int]


@dataclass(frozen=True, slots=True)
class TorchFile:
    """A file that was saved, without the numbers of its tensors, and what is in it in order."""

    content: bytes
    records: tuple[Record, ...]

    def fill(self, tensors: Sequence[Numbers]) -> Pieces:
        """The same file with other numbers, a tensor after the other."""
        checksums = {f"{DATA}{index}": numbers.checksum for index, numbers in enumerate(tensors)}
        content = bytearray(self.content)
        mark = self._make_id(checksums).encode()
        for record in self.records:
            crc = zlib.crc32(mark) if record.name == ID else checksums.get(record.name, record.crc)
            for place in record.crc_places:
                struct.pack_into("<I", content, place, crc)
            if record.name == ID:
                content[record.start : record.start + record.size] = mark
        return self._cut(memoryview(content), tensors)

    def _cut(self, content: memoryview, tensors: Sequence[Numbers]) -> Pieces:
        """What lies between tensors is of this file, and what they are is theirs."""
        pieces: list[memoryview] = []
        end = 0
        for record in self.records:
            if record.name.startswith(DATA):
                numbers = tensors[int(record.name.removeprefix(DATA))]
                pieces += [content[end : record.start], numbers.data, numbers.zeros]
                end = record.start
        return [*pieces, content[end:]]

    def _make_id(self, checksums: Mapping[str, int]) -> str:
        """Twenty digits of the members' names, and twenty of their checksums in order."""
        combined = 0
        for record in self.records:
            if record.name != ID:
                combined = combine(combined, checksums.get(record.name, record.crc))
        old = next(record for record in self.records if record.name == ID)
        return self.content[old.start : old.start + 20].decode() + f"{combined:020d}"


def combine(seed: int, value: int) -> int:
    """PyTorch's hash of two hashes, of 64 bits."""
    mixed = value + 0x9E3779B9 + (seed << 6) + (seed >> 2)
    return (seed ^ mixed) & ((1 << 64) - 1)


def open_layout(tensors: Mapping[str, Tensor]) -> TorchFile | None:
    """The layout of files of such tensors; None where this PyTorch makes its files otherwise."""
    generator = torch.Generator().manual_seed(0)
    drawn = {
        name: torch.randint(2, value.shape, generator=generator).to(value.dtype) for name, value in tensors.items()
    }
    try:
        layout = read_layout(save({name: torch.zeros_like(value) for name, value in tensors.items()}))
        made = b"".join(layout.fill([Numbers(view_bytes(value), memoryview(b"")) for value in drawn.values()]))
    except (zipfile.BadZipFile, StopIteration, IndexError, ValueError, struct.error):
        return None
    return layout if made == save(drawn) else None


def save(tensors: Mapping[str, Tensor]) -> bytes:
    """What torch.save writes to a stream."""
    stream = io.BytesIO()
    torch.save(dict(tensors), stream)
    return stream.getvalue()


def read_layout(content: bytes) -> TorchFile:
    """The members of a file that was saved, in order, and all of it but the numbers of tensors."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        infos, central = file.infolist(), file.start_dir
    numbers = sum(info.file_size for info in infos if info.filename.startswith(DATA))
    records, kept, end, cut = [], bytearray(), 0, 0
    for info in infos:
        name, extra = struct.unpack_from("<HH", content, info.header_offset + LOCAL - 4)
        start = info.header_offset + LOCAL + name + extra
        size = info.file_size if info.filename.startswith(DATA) else 0
        kept += content[end:start]
        places = (start - cut + info.file_size - size + DESCRIPTOR_CRC, central - numbers + CENTRAL_CRC)
        records.append(Record(info.filename, start - cut, info.file_size, info.CRC, places))
        end, cut = start + size, cut + size
        central += CENTRAL + sum(struct.unpack_from("<HHH", content, central + CENTRAL - 18))
    return TorchFile(bytes(kept + content[end:]), tuple(records))


def append_zeros(checksum: int, count: int) -> int:
    """CRC-32 of what has this one and `count` zero bytes after it."""
    return multiply(_power(count), checksum ^ ALL) ^ ALL


def multiply(one: int, other: int) -> int:
    """Product of two polynomials over GF(2), modulo that of CRC-32; the highest bit is the constant term."""
    product = 0
    for bit in range(31, -1, -1):
        if one >> bit & 1:
            product ^= other
        other = other >> 1 ^ POLYNOMIAL if other & 1 else other >> 1
    return product


@lru_cache(maxsize=1024)
def _power(count: int) -> int:
    """x to the power of 8 for each byte."""
    result, factor, left = ONE, ONE >> 8, count
    while left:
        if left & 1:
            result = multiply(factor, result)
        factor, left = multiply(factor, factor), left >> 1
    return result
