"""The bucket of an output on an object store: its credentials, region and endpoint, the same that Arrow reads with."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import obstore.store
import pyarrow.fs as pafs

from pipelines.stores.object_store import ObjectStore
from t5enc.errors import OutputError
from t5enc.storage.filesystems import recover_options

# Of one request, its body included: a shard is one put, and a slow line is not a broken one.
TIMEOUT = "300s"
# Without any byte of an answer, which none but a put is to wait for longer.
SILENCE = "60s"
NO_RETRIES: Any = {"max_retries": 0}


def open_bucket(filesystem: Any, root: str) -> ObjectStore:
    """The object store of a bucket and prefix on Arrow's S3 or Google filesystem."""
    bucket, _, prefix = root.partition("/")
    scheme, opener = ("s3", _open_s3) if isinstance(filesystem, pafs.S3FileSystem) else ("gs", _open_gcs)
    client = {"timeout": os.environ.get("AWS_TIMEOUT", TIMEOUT), "allow_http": True}
    open_as = partial(opener, bucket, prefix, recover_options(filesystem))
    return ObjectStore(open_as(client | {"read_timeout": SILENCE}), f"{scheme}://{root}", sender=open_as(client))


def _open_s3(bucket: str, prefix: str, options: Mapping[str, Any], client: Any) -> Any:
    address = {"endpoint": find_endpoint(options), "region": options["region"]}  # else the environment's
    if authority := options.get("tls_ca_file_path"):
        client = client | {"root_certificate": Path(authority).read_bytes()}
    return obstore.store.S3Store(
        bucket,
        prefix=prefix or None,
        client_options=client,
        retry_config=NO_RETRIES,
        **{name: value for name, value in address.items() if value},
        **find_credentials(options),
    )


def find_endpoint(options: Mapping[str, Any]) -> str | None:
    """The address of another store than Amazon's, None where the environment or the region decides."""
    override = options["endpoint_override"]
    return override if not override or "://" in override else f"{options['scheme'] or 'https'}://{override}"


def find_credentials(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the URI; else the environment's, or a profile's where boto3 is there to read it; else the machine's."""
    if options["access_key"]:
        token = {"session_token": options["session_token"]} if options["session_token"] else {}
        return {"access_key_id": options["access_key"], "secret_access_key": options["secret_key"]} | token
    if options["anonymous"]:
        return {"skip_signature": True}
    if "AWS_ACCESS_KEY_ID" in os.environ:
        return {}
    if importlib.util.find_spec("boto3") is not None:
        return _ask_boto3()
    if "AWS_PROFILE" in os.environ:
        raise OutputError("AWS_PROFILE: expected boto3 to read it for the output, got none; `pip install boto3`")
    return {}


def _ask_boto3() -> dict[str, Any]:
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        return {"credential_provider": Boto3CredentialProvider()}
    except ValueError:  # it knows none; obstore then asks the machine
        return {}


def _open_gcs(bucket: str, prefix: str, options: Mapping[str, Any], client: Any) -> Any:
    wanted = {"base_url": find_endpoint(options), "skip_signature": options["anonymous"]}
    config: Any = {name: value for name, value in wanted.items() if value}
    return obstore.store.GCSStore(
        bucket,
        prefix=prefix or None,
        config=config,
        client_options=client,
        retry_config=NO_RETRIES,
    )
