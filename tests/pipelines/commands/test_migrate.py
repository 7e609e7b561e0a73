"""An output that release 0.1 wrote, in format 1: refused until it is moved over, and then gone on with as it was.

`format_1.zip` holds it and its captions, `format_1_killed.zip` one of two folders, of which the run was killed at its
fourth shard of five; both were written by that release.
"""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from pipelines import EncodeJob, encode_parquet
from pipelines.commands.fsck import check_output
from pipelines.commands.migrate import OLD_PLAN, migrate_output
from pipelines.commit.log import read_log
from pipelines.stores.store import LocalStore, Store, open_store
from t5enc import load_embeddings
from t5enc.cli import build_app
from t5enc.errors import ConfigError, OutputError
from t5enc.output import open_output
from t5enc.storage import PREFIX
from t5enc.storage.layout import JOB, OLD_JOB, SHARD_NAME, SUCCESS, TEMPORARY, is_shard
from tests.pipelines.commit.drivers import Killed, Mortal
from tests.pipelines.commit.memory_store import MemoryStore
from tests.pipelines.stores.contents import files
from tests.pipelines.stores.s3_server import CREDENTIALS, connect

ARCHIVE = Path(__file__).parent / "format_1.zip"
KILLED = Path(__file__).parent / "format_1_killed.zip"
TOLD = r"got one of format 1, with _job.json.*`t5enc fsck --migrate \S*out`"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`in` and `out` in the working folder."""
    monkeypatch.chdir(tmp_path)
    extract(ARCHIVE)
    return tmp_path


def extract(archive: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        file.extractall()


def make_job() -> EncodeJob:
    return EncodeJob(inputs=["in"], output="out", model="builtin:tiny", recipe="flux", max_length=16, rows_per_shard=2)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(build_app(), list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def fill(folder: Path) -> MemoryStore:
    store = MemoryStore()
    for name in files(folder):
        store.objects[name] = (folder / name).read_bytes()
    return store


def test_it_is_refused_by_name_with_the_command_that_moves_it_over(here: Path, in_process: None) -> None:
    before = {name: (here / name).read_bytes() for name in files(here)}
    shard = next(name for name in before if name.startswith("out/a.parquet/"))
    with pytest.raises(OutputError, match=TOLD):
        encode_parquet(make_job())
    for path in ("out", shard):
        with pytest.raises(OutputError, match=TOLD):
            load_embeddings(path)
    for command in ("inspect", "fsck"):
        result = CliRunner().invoke(build_app(), [command, "out"])
        assert isinstance(result.exception, OutputError)
        assert "t5enc fsck --migrate out" in str(result.exception)
    assert {name: (here / name).read_bytes() for name in files(here)} == before


def test_it_is_moved_over_whole_and_the_same_command_has_nothing_to_do(here: Path, in_process: None) -> None:
    before = {Path(name).name: (here / name).read_bytes() for name in files(here) if SHARD_NAME.search(name)}
    assert "8 shards moved to data/," in run("fsck", "--migrate", "out")
    after = files(here / "out")
    assert {Path(name).name: (here / "out" / name).read_bytes() for name in after if is_shard(name)} == before
    assert {name for name in after if name.endswith(".parquet")} == {name for name in after if is_shard(name)}
    assert not [path for path in (here / "out").rglob("*.parquet") if path.is_dir()]
    assert OLD_JOB not in after
    run("fsck", "--deep", "out")
    table, embeddings = load_embeddings("out")
    keys = [f"caption {id}" for id in table["id"].to_pylist()]
    assert table["caption"].to_pylist() == keys
    assert len(keys) == len(embeddings) == 12
    assert open_output("out").conditioning is not None
    report = encode_parquet(make_job())
    assert (report.progress.counts.captions, report.is_finished) == (0, True)
    assert load_embeddings("out")[0].equals(table)


def test_half_of_it_goes_on_where_it_was(here: Path, in_process: None) -> None:
    lost = [name for name in files(here / "out") if name.startswith(("a.parquet/", "data/"))]
    for name in [*lost, SUCCESS]:
        (here / "out" / name).unlink()
    run("fsck", "--migrate", "out")
    report = encode_parquet(make_job())
    assert (report.progress.counts.captions, report.totals["captions"]) == (5, 12)
    assert load_embeddings("out")[0][f"{PREFIX}source"].to_pylist() == [
        *["a-b.parquet"] * 3,
        *["a.parquet"] * 3,
        "a/c.parquet",
        *["data/x.parquet"] * 2,
        *["manifest.parquet"] * 2,
        "year=2024/x.parquet",
    ]


@pytest.mark.parametrize("inputs", [["in/2023", "in/2024"], ["in/2024/*.parquet", "in/2023/a.parquet"]])
def test_a_run_that_was_killed_goes_on_where_it_was(
    inputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: None
) -> None:
    """It left no plan, so that only the shards tell what their inputs were called."""
    monkeypatch.chdir(tmp_path)
    extract(KILLED)
    assert "3 shards moved to data/," in run("fsck", "--migrate", "out")
    job = EncodeJob(inputs=inputs, output="out", model="builtin:tiny", max_length=16, rows_per_shard=2)
    report = encode_parquet(job)
    assert (report.progress.counts.captions, report.totals["captions"]) == (3, 8)
    assert check_output(open_store("out"), deep=True) == []
    assert load_embeddings("out")[0][f"{PREFIX}source"].to_pylist()[:3] == ["2023/a.parquet"] * 3


def test_a_plan_that_cannot_be_read_stops_it_and_stays(here: Path) -> None:
    """Else what the inputs were called would be forgotten, and all computed anew."""
    store, whole = fill(here / "out"), fill(here / "out")
    plan = store.objects[OLD_PLAN]
    store.objects[OLD_PLAN] = plan[:-9]
    with pytest.raises(OutputError, match=rf"{OLD_PLAN}: cannot be read: .*; it says what the inputs are called"):
        migrate_output(store)
    assert {OLD_JOB, OLD_PLAN} <= store.objects.keys()
    store.objects[OLD_PLAN] = plan
    migrate_output(store)
    migrate_output(whole)
    assert store.objects == whole.objects


@pytest.mark.parametrize("killed_after", range(0, 90, 4))
def test_killed_anywhere_it_is_refused_and_goes_on_when_run_again(killed_after: int, here: Path) -> None:
    store, whole = fill(here / "out"), fill(here / "out")
    migrate_output(whole)
    try:
        migrate_output(cast(Store, Mortal(store, killed_after)))
    except Killed:
        assert OLD_JOB in store.objects
        migrate_output(store)
    assert store.objects == whole.objects
    assert check_output(store, deep=True) == []


@pytest.mark.parametrize("killed_after", range(0, 60, 4))
def test_killed_anywhere_on_a_disk_its_folders_are_gone_when_run_again_and_anybodys_stay(
    killed_after: int, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = here / "out/mine/notes"
    own.mkdir(parents=True)
    store, left = LocalStore(here / "out"), iter(range(killed_after))

    def mortal(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            if next(left, None) is None:
                raise Killed
            return function(*arguments)

        return run

    with monkeypatch.context() as patch:
        for name in ("move", "replace", "delete"):
            patch.setattr(LocalStore, name, mortal(getattr(LocalStore, name)))
        patch.setattr("os.rmdir", mortal(os.rmdir))
        with contextlib.suppress(Killed):
            migrate_output(store)
    in_data = {name for name in files(here / "out") if is_shard(name) and "_/" in name}
    assert migrate_output(store).moved == 8 - len(in_data)
    assert check_output(store, deep=True) == []
    assert own.is_dir()
    empty = {path for path in (here / "out").rglob("*") if path.is_dir() and not any(path.iterdir())}
    assert empty - {here / "out" / TEMPORARY} == {own}
    assert not [path for path in (here / "out").rglob("*.parquet") if path.is_dir()]


def test_moving_over_is_no_check(here: Path) -> None:
    result = CliRunner().invoke(build_app(), ["fsck", "--migrate", "--deep", "out"])
    assert isinstance(result.exception, ConfigError)
    assert (here / "out" / OLD_JOB).exists()


def test_a_foreign_file_stays_and_a_torn_shard_is_put_aside(here: Path) -> None:
    store = fill(here / "out")
    foreign = store.objects["mine/0.parquet"] = (here / "in/a.parquet").read_bytes()
    torn = next(name for name in store.objects if name.startswith("a.parquet/"))
    store.objects[torn] = store.objects[torn][:-9]
    migration = migrate_output(store)
    assert migration.foreign == ("mine/0.parquet",)
    assert store.objects["mine/0.parquet"] == foreign
    assert [name for name in store.objects if name.startswith(f"_t5enc/stale/{torn}.")]


def test_what_is_moved_already_stays_and_what_no_job_wrote_is_refused(here: Path) -> None:
    store = fill(here / "out")
    migrate_output(store)
    before = dict(store.objects)
    assert migrate_output(store).moved == 0
    assert store.objects == before
    with pytest.raises(OutputError, match=f"without {OLD_JOB} and {JOB}"):
        migrate_output(LocalStore(here / "in"))


def test_the_log_is_believed_but_for_what_was_struck_out(here: Path, in_process: None) -> None:
    log = here / "out" / "_manifest"
    struck = [name for name in files(here / "out") if name.startswith(("a.parquet/", "source_manifest.parquet/"))]
    (log / "0.struck_out.json").write_text(json.dumps(struck))
    run("fsck", "--migrate", "out")
    store = LocalStore(here / "out")
    known = {record.name.rpartition("/")[2] for record in read_log(store)}
    shards = {name.rpartition("/")[2] for name in files(here / "out") if is_shard(name)}
    assert known == shards - {name.rpartition("/")[2] for name in struck}
    assert len(known) == len(shards) - len(struck)


@pytest.mark.parametrize("place", ["s3", "memory"])
def test_a_store_is_moved_over_likewise(place: str, here: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    connect(server).create_bucket(Bucket="migrate")
    uri = f"s3://migrate/out?scheme=http&endpoint_override={server}&region=us-east-1"
    store = open_store(uri if place == "s3" else "memory://migrate/out")
    expected = fill(here / "out")
    for name, data in expected.objects.items():
        store.replace(name, data)
    migrate_output(expected)
    assert migrate_output(store).moved == 8
    assert {name: store.read(name) for name, _ in store.list()} == expected.objects
    assert check_output(store, deep=True) == []
