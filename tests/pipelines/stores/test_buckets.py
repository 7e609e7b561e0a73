"""What a bucket is opened with: region, endpoint and credentials as Arrow's filesystem of the same URI has them."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.stores.buckets import find_credentials, find_endpoint
from pipelines.stores.object_store import ObjectStore
from pipelines.stores.store import open_store
from t5enc.errors import OutputError
from t5enc.storage.filesystems import PatientS3, open_filesystem
from tests.pipelines.stores.s3_server import (
    CREDENTIALS,
    FaultyProxy,
    answer_as_google,
    connect,
    refuse,
    run_faulty_proxy,
    run_s3_server,
)

HERE = "scheme=http&endpoint_override=127.0.0.1:9"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither credentials nor profiles of whoever runs the tests."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL", *CREDENTIALS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def read_options(uri: str) -> dict[str, Any]:
    filesystem, _ = open_filesystem(uri)
    assert isinstance(filesystem, PatientS3)
    return filesystem.options


def open_s3(uri: str) -> Any:
    store = open_store(uri)
    assert isinstance(store, ObjectStore)
    return store.bucket


def test_credentials_of_the_uri_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    options = read_options(f"s3://key:se%2Fcret@bucket/out?region=eu-west-1&{HERE}")
    assert find_credentials(options) == {"access_key_id": "key", "secret_access_key": "se/cret"}


def test_those_of_the_environment_are_left_to_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    assert find_credentials(read_options(f"s3://bucket/out?region=eu-west-1&{HERE}")) == {}


def test_a_profile_is_read_by_boto3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("boto3", reason="needs boto3")
    (tmp_path / "credentials").write_text("[work]\naws_access_key_id = mine\naws_secret_access_key = hidden\n")
    monkeypatch.setenv("AWS_PROFILE", "work")
    provider = find_credentials(read_options(f"s3://bucket/out?region=eu-west-1&{HERE}"))["credential_provider"]
    found = provider()
    assert (found["access_key_id"], found["secret_access_key"]) == ("mine", "hidden")


def test_a_profile_without_boto3_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    options = read_options(f"s3://bucket/out?region=eu-west-1&{HERE}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert find_credentials(options) == {}
    monkeypatch.setenv("AWS_PROFILE", "work")
    with pytest.raises(OutputError, match="AWS_PROFILE: expected boto3 to read it for the output"):
        find_credentials(options)


def test_where_there_are_none_the_machine_is_asked() -> None:
    assert find_credentials(read_options(f"s3://bucket/out?region=eu-west-1&{HERE}")) == {}
    assert find_credentials({"access_key": None, "anonymous": True}) == {"skip_signature": True}


def test_region_and_endpoint_are_those_of_the_uri_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    bucket = open_s3(f"s3://bucket/a/b?region=eu-west-1&{HERE}")
    assert (bucket.config["region"], bucket.config["endpoint"]) == ("eu-west-1", "http://127.0.0.1:9")
    assert (bucket.config["bucket"], bucket.prefix) == ("bucket", "a/b")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:7")
    assert open_s3("s3://bucket/c").config["endpoint"] == "http://127.0.0.1:7"


def test_an_endpoint_may_name_its_scheme() -> None:
    assert find_endpoint({"endpoint_override": "", "scheme": "https"}) == ""
    assert find_endpoint({"endpoint_override": "http://host:1", "scheme": "https"}) == "http://host:1"
    assert find_endpoint({"endpoint_override": "host:1", "scheme": ""}) == "https://host:1"


def test_a_bucket_is_opened_once() -> None:
    uri = f"s3://key:secret@bucket/once?region=eu-west-1&{HERE}"
    assert open_store(uri) is open_store(uri)


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultyProxy]:
    """The S3 server behind a proxy that understands Google's API, and an account that asks nobody for tokens."""
    names = ("gcs_base_url", "client_email", "private_key", "private_key_id")
    (tmp_path / "account.json").write_text(json.dumps(dict.fromkeys(names, "") | {"disable_oauth": True}))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))
    with run_s3_server() as host, run_faulty_proxy(host, answer_as_google) as proxy:
        connect(host).create_bucket(Bucket="bucket")
        yield proxy


def test_googles_buckets_are_object_stores_too(google: FaultyProxy) -> None:
    store = open_store(f"gs://anonymous@bucket/out/here?scheme=http&endpoint_override={google.host}")
    assert isinstance(store, ObjectStore)
    assert (store.uri, store.bucket.prefix) == ("gs://bucket/out/here", "out/here")
    assert store.create("a b%/ü", b"first")
    google.script = [refuse(404, "NoSuchKey"), refuse(503, "SlowDown")]
    assert not store.create("a b%/ü", b"second"), "another came between the look and the put"
    store.replace("c", b"third")
    assert dict(store.list()) == {"a b%/ü": 5, "c": 5}
    with store.open("a b%/ü") as file:
        assert file.read_at(3, 2) == b"rst"
    store.move("a b%/ü", "moved")
    store.delete("c")
    store.delete("c")
    assert [(name, store.read(name)) for name, _ in store.list()] == [("moved", b"first")]
