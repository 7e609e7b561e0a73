"""An output on S3 or Google Cloud Storage: one put makes an object appear, and a condition keeps the first.

Requests are made by Rust's `object_store`, through obstore and without its own retries: those do not repeat a
conditional put whose answer was lost, and cannot be counted. A put that is made again may meet the object of its own
first attempt, and says "taken": harmless, for whoever is told so reads what is there.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar

import obstore
import pyarrow as pa
from obstore.exceptions import AlreadyExistsError, BaseError

from pipelines.stores.retrying import retry
from pipelines.stores.store_errors import Trouble, diagnose
from t5enc.errors import OutputError

T = TypeVar("T")
logger = logging.getLogger(__name__)

PAGE = 1000
# Above this an object that may be replaced goes up in parts; up to 5 GB the stores take one put.
PUT_BYTES = 256 << 20
PART_BYTES = 32 << 20


class ObjectStore:
    """Objects below a prefix of a bucket, named by `uri`.

    `bucket` is obstore's, and `sender` the same for puts, of which a large one may take longer than an answer to
    anything else. `patience` says for how many seconds trouble of a kind is met with other attempts.
    """

    def __init__(
        self, bucket: Any, uri: str, *, sender: Any = None, patience: Callable[[Trouble], float] = Trouble.patience
    ) -> None:
        self.bucket = bucket
        self.sender = sender or bucket
        self.uri = uri
        self.patience = patience
        self.is_conditional = True

    def list(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """(name, size) of every object, or of those in a folder."""
        last = None
        while True:
            page = self._ask(folder, _list_page, folder or None, last)
            yield from ((entry["path"], entry["size"]) for entry in page)
            if len(page) < PAGE:
                return
            last = page[-1]["path"]

    def read(self, name: str) -> bytes:
        """The object's bytes."""
        return self._ask(name, _read, name)

    def open(self, name: str) -> Any:
        """The object as a random-access file, which asks for every part that is read."""
        size = self.size(name)
        if size is None:
            raise FileNotFoundError(f"{self.uri}/{name}")
        return pa.PythonFile(ObjectFile(partial(self._ask, name, _read_range, name), size), mode="r")

    def size(self, name: str) -> int | None:
        """The object's size in bytes, or None."""
        try:
            return int(self._ask(name, obstore.head, name)["size"])
        except FileNotFoundError:
            return None

    def create(self, name: str, data: Any) -> bool:
        """Store an object unless its name is taken, as the store decides; a look before may save sending it."""
        if self.size(name) is not None:
            return False
        data = memoryview(data).cast("B")  # obstore takes unsigned bytes alone, Arrow's are signed
        if self.is_conditional and (is_ours := self._send(name, _put_new, name, data)) is not None:
            return is_ours
        if self.is_conditional:
            self.is_conditional = False
            logger.warning("%s: knows no conditional put; of two writers at one moment, the second wins", self.uri)
        self.replace(name, data)
        return True

    def replace(self, name: str, data: Any) -> None:
        """Store an object, whatever was there before; a large one in parts, none of which stay where one fails."""
        data = memoryview(data).cast("B")
        in_parts = len(data) > PUT_BYTES
        self._send(name, obstore.put, name, data, use_multipart=in_parts, chunk_size=PART_BYTES)

    def move(self, name: str, target: str) -> None:
        """Copy an object within the store, and delete it under its old name."""
        with contextlib.suppress(FileNotFoundError):
            self._ask(target, obstore.copy, name, target)
            self.delete(name)

    def delete(self, name: str) -> None:
        """Remove an object."""
        with contextlib.suppress(FileNotFoundError):
            self._ask(name, obstore.delete, name)

    def list_unnamed(self) -> dict[str, float]:
        """None: what was not put whole is not there, and a rule of the bucket removes parts of killed uploads."""
        return {}

    def sweep(self, unnamed: Iterable[str]) -> None:
        """Nothing."""

    def _ask(self, name: str, request: Callable[..., T], *args: Any) -> T:
        return self._make(name, partial(request, self.bucket, *args))

    def _send(self, name: str, request: Callable[..., T], *args: Any, **options: Any) -> T:
        return self._make(name, partial(request, self.sender, *args, **options))

    def _make(self, name: str, request: Callable[[], T]) -> T:
        """Make a request, and again where that may help; its errors in our words, FileNotFoundError as it is."""
        try:
            return retry(request, self._worth)
        except (BaseError, FileNotFoundError) as error:
            trouble = diagnose(error)
            if trouble is Trouble.MISSING:
                raise
            raise OutputError(trouble.explain(self.uri, name, error)) from error

    def _worth(self, error: Exception) -> float:
        return self.patience(diagnose(error))


def _list_page(bucket: Any, folder: str | None, last: str | None) -> Any:
    return next(iter(obstore.list(bucket, prefix=folder, offset=last, chunk_size=PAGE)), [])


def _read(bucket: Any, name: str) -> bytes:
    return bytes(obstore.get(bucket, name).bytes())


def _read_range(bucket: Any, name: str, start: int, length: int) -> bytes:
    return bytes(obstore.get_range(bucket, name, start=start, length=length))


def _put_new(bucket: Any, name: str, data: Any) -> bool | None:
    """Whether the object is ours; None where the store knows no such condition."""
    try:
        obstore.put(bucket, name, data, mode="create", use_multipart=False)
    except AlreadyExistsError as error:
        # A 409 says the same as a 412, but nothing may be there: another's delete was under way.
        try:
            obstore.head(bucket, name)
        except FileNotFoundError:
            raise BaseError("409 ConditionalRequestConflict") from error
        return False
    except BaseError as error:
        if diagnose(error) is Trouble.UNCONDITIONAL:
            return None
        raise
    return True


class ObjectFile(io.RawIOBase):
    """As much of a file as Arrow needs to read parts of an object; `read_range` takes start and length."""

    def __init__(self, read_range: Callable[[int, int], bytes], size: int) -> None:
        self._read_range = read_range
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, from the start, from here or from the end."""
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def read(self, size: int = -1) -> bytes:
        """The next bytes, up to the end of the object."""
        left = max(0, self._size - self._position)
        length = left if size < 0 else min(size, left)
        data = self._read_range(self._position, length) if length else b""
        self._position += len(data)
        return data
