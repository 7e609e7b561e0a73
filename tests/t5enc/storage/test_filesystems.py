"""URIs and the filesystems that they name."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest

from t5enc.errors import OutputError
from t5enc.storage.filesystems import PatientS3, find_filesystem, hide_credentials, open_filesystem

HERE = "region=eu-west-1&scheme=http&endpoint_override=127.0.0.1:9"


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        (f"s3://bucket/a b%20/c?{HERE}", "bucket/a b%20/c"),
        (f"s3://bucket/a/?{HERE}", "bucket/a"),
        (f"s3://key:se%2Fcret@bucket/q?x/y?{HERE}", "bucket/q?x/y"),
        (f"s3://bucket?{HERE}", "bucket"),
        ("gs://anonymous@bucket/a@b", "bucket/a@b"),
    ],
)
def test_a_path_in_a_bucket_is_taken_as_it_stands(uri: str, path: str) -> None:
    assert open_filesystem(uri)[1] == path


def test_s3_is_patient_also_in_another_process() -> None:
    filesystem, _ = open_filesystem(f"s3://key:se%2Fcret@bucket/a?{HERE}")
    again = pickle.loads(pickle.dumps(filesystem))
    assert isinstance(filesystem, PatientS3)
    assert isinstance(again, PatientS3)
    assert again == filesystem
    assert again.options == filesystem.options
    wanted: dict[str, Any] = {
        "access_key": "key",
        "secret_key": "se/cret",
        "region": "eu-west-1",
        "scheme": "http",
        "endpoint_override": "127.0.0.1:9",
    }
    assert {name: filesystem.options[name] for name in wanted} == wanted


def test_a_local_path_is_absolute_however_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given in ("a b%", f"{tmp_path}/a b%/", (tmp_path / "a b%").as_uri()):
        assert open_filesystem(given) == (pafs.LocalFileSystem(), str(tmp_path / "a b%"))


@pytest.mark.parametrize("uri", ["nope://a/b", "file://otherhost/a", "s3://bucket?nonsense=1"])
def test_an_output_that_cannot_be_opened_is_an_output_error(uri: str) -> None:
    with pytest.raises(OutputError, match="expected a filesystem that can be opened"):
        find_filesystem(uri)


def test_credentials_of_a_uri_are_hidden() -> None:
    assert hide_credentials("s3://key:se%2Fcret@bucket/a@b?region=x") == "s3://bucket/a@b?region=x"
    for uri in ("s3://bucket/a@b", "/local/a@b", "captions"):
        assert hide_credentials(uri) == uri


def test_credentials_are_hidden_wherever_a_uri_stands() -> None:
    said = "Cannot parse URI: 's3://key:secret@bu cket' of --output=gs://user@bucket"
    assert hide_credentials(said) == "Cannot parse URI: 's3://bu cket' of --output=gs://bucket"


def test_an_output_that_cannot_be_opened_is_told_without_its_keys() -> None:
    with pytest.raises(OutputError, match=r"^s3://bu cket: expected .* got: .*'s3://bu cket'") as caught:
        find_filesystem("s3://key:secret@bu cket")
    assert "secret" not in str(caught.value)
