"""On object stores and other filesystems dedup is what it is on a disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import encode_parquet
from pipelines.commands.fsck import check_output
from pipelines.stores.store import open_store
from t5enc import load_embeddings
from t5enc.storage.filesystems import join_path
from tests.pipelines.dedup.jobs import make_job, write_files
from tests.pipelines.stores.s3_server import CREDENTIALS, connect


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("duplicates", ["copied", "referenced"])
@pytest.mark.parametrize("place", ["s3", "memory"])
def test_an_output_elsewhere_is_as_on_a_disk(
    tmp_path: Path, server: str, place: str, duplicates: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    output = f"memory://dedup-{duplicates}"
    if place == "s3":
        connect(server).create_bucket(Bucket=f"dedup-{duplicates}")
        output = f"s3://dedup-{duplicates}/out?scheme=http&endpoint_override={server}&region=us-east-1"
    inputs = write_files(tmp_path / "in")
    encode_parquet(make_job(inputs, tmp_path / "plain"))
    job = make_job(inputs, output, dedup="job", duplicates=duplicates)
    report = encode_parquet(job)
    assert (report.totals["shared"], report.totals["reused"]) == ((8, 0) if duplicates == "referenced" else (0, 8))
    assert check_output(open_store(output), deep=True) == []
    (table, embeddings), (wanted, exact) = load_embeddings(output), load_embeddings(tmp_path / "plain")
    assert table.select(wanted.column_names).equals(wanted)
    assert embeddings.values.equal(exact.values)


def test_what_lies_below_a_uri_keeps_its_options() -> None:
    assert join_path("out", "shared") == "out/shared"
    assert join_path("/data/a?b=c/", "shared") == "/data/a?b=c/shared"
    assert join_path("s3://bucket/out/?region=eu-west-1", "shared") == "s3://bucket/out/shared?region=eu-west-1"
    assert join_path("memory://out", "a/b") == "memory://out/a/b"
