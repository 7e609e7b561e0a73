"""The pyarrow filesystem of a path or URI: local disks, S3 and Google's are Arrow's own, other schemes are fsspec's."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow.fs as pafs

from t5enc.errors import OutputError

# `?` is also a wildcard, so only a tail of options is read as a query: s3://bucket/captions?region=eu-west-1
QUERY = re.compile(r"\?\w+=[^/?*]*$")
# Schemes of which a URI may have such options.
BUCKETS = ("s3", "gs", "gcs")
# Arrow gives up after three, which a throttled bucket outlasts.
ATTEMPTS = 10


class PatientS3(pafs.S3FileSystem):  # type: ignore[misc]
    """Arrow's S3 with more attempts, also after it was pickled, when Arrow forgets how many it was to make."""

    def __init__(self, **options: Any) -> None:
        strategy = pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS)
        super().__init__(**{"retry_strategy": strategy} | options)

    def __reduce__(self) -> Any:
        return _make_patient, (self.options,)

    @property
    def options(self) -> dict[str, Any]:
        """Credentials, region, endpoint and the rest, as S3FileSystem takes them."""
        return recover_options(super())


def _make_patient(options: Mapping[str, Any]) -> PatientS3:
    return PatientS3(**options)


def recover_options(filesystem: Any) -> dict[str, Any]:
    """What Arrow's S3 or Google filesystem was opened with, or found out, as it takes it; only explicit credentials."""
    return dict(filesystem.__reduce__()[1][0])


def open_filesystem(uri: str, options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """The filesystem of a path or URI, and the path on it without a closing slash (absolute where local).

    `options` go to the filesystem that a URI names. Raises ImportError, OSError, TypeError or ValueError where there
    is none to be opened.
    """
    if not uri.strip():
        raise ValueError("no path")
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return pafs.LocalFileSystem(), Path(os.path.abspath(uri)).as_posix()
    openers = {"file": _open_file_uri, "s3": _open_native, "gs": _open_native, "gcs": _open_native, "hdfs": _open_hdfs}
    return openers.get(scheme, _open_fsspec)(scheme, rest, options or {})


def find_filesystem(path: str | os.PathLike[str]) -> tuple[Any, str]:
    """The pyarrow filesystem of a path or URI, and the path on it; OutputError where there is none."""
    try:
        os.fspath(path).encode()  # what is written there is read by all
        return open_filesystem(os.fspath(path))
    except (ImportError, OSError, TypeError, ValueError) as error:
        told = hide_credentials(
            f"{os.fspath(path) or repr(path)}: expected a filesystem that can be opened, got: {error}"
        )
        raise OutputError(told) from error


def join_path(path: str, name: str) -> str:
    """The path or URI of what lies below another, whose options it keeps."""
    query = QUERY.search(path) if path.partition("://")[0] in BUCKETS else None
    folder = path[: query.start()] if query else path
    return f"{folder.rstrip('/')}/{name}{query[0] if query else ''}"


def absolute_path(path: str) -> str:
    """A path without a scheme made absolute, so that it holds in any folder; a URI as it is."""
    return path if "://" in path else os.path.abspath(path)


def absolute_if_local(name: str) -> str:
    """A path that exists here as an absolute one; anything else, which may be a name, as it is."""
    return os.path.abspath(name) if os.path.exists(name) else name


def hide_credentials(uri: str) -> str:
    """A URI, or a text with URIs in it, without the users and passwords that they may hold."""
    return re.sub(r"(\w+://)[^/@\s]*@", r"\1", uri)


def _open_file_uri(_: str, rest: str, __: Mapping[str, Any]) -> tuple[Any, str]:
    host, separator, path = rest.partition("/")
    if host not in ("", "localhost"):
        raise ValueError(f"the files of another host, {host!r}")
    return open_filesystem(separator + unquote(path))


def _open_native(scheme: str, rest: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """Only the bucket is parsed as a URI: a key may hold spaces, `%` or `?`, and is taken as it stands."""
    query = QUERY.search(rest)
    authority, _, key = (rest[: query.start()] if query else rest).partition("/")
    if options:
        native = PatientS3 if scheme == "s3" else pafs.GcsFileSystem
        filesystem, bucket = native(**options), authority.rpartition("@")[2]
    else:
        filesystem, bucket = pafs.FileSystem.from_uri(f"{scheme}://{authority}{query[0] if query else ''}")
    if isinstance(filesystem, pafs.S3FileSystem) and not isinstance(filesystem, PatientS3):
        filesystem = PatientS3(**recover_options(filesystem))
    return filesystem, f"{bucket}/{key}".rstrip("/")


def _open_hdfs(scheme: str, rest: str, _: Mapping[str, Any]) -> tuple[Any, str]:
    filesystem, path = pafs.FileSystem.from_uri(f"{scheme}://{rest}")
    return filesystem, path.rstrip("/")


def _open_fsspec(scheme: str, rest: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    import fsspec

    filesystem, path = fsspec.url_to_fs(f"{scheme}://{rest}", **options)
    filesystem.invalidate_cache()  # a listing kept from earlier in this process may be out of date
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path.rstrip("/")
