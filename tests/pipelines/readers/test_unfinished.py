"""What readers see of an output that no run has finished: never a row twice, nor as it was beside as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from pipelines import EncodeJob, encode_parquet
from pipelines.commit.protocol import commit_shard
from pipelines.commit.records import UnitRecord
from t5enc.errors import ExitCode, OutputError
from t5enc.storage import PREFIX
from t5enc.storage.layout import CARD
from tests.pipelines.commit.drivers import Killed

pytestmark = pytest.mark.usefixtures("in_process")
NAMES = "abcdefghijkl"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A finished job of twelve files."""
    (tmp_path / "in").mkdir()
    for name in NAMES:
        write(tmp_path, name, f"{name} one", f"{name} two")
    encode(tmp_path)
    return tmp_path


def write(here: Path, name: str, *captions: str) -> None:
    pq.write_table(pa.table({"caption": captions}), here / f"in/{name}.parquet")


def encode(here: Path, **options: Any) -> ExitCode:
    job = EncodeJob(inputs=[str(here / "in")], output=str(here / "out"), model="builtin:tiny", **options)
    return encode_parquet(job).exit_code


def read(here: Path) -> dict[tuple[str, int], str]:
    """Captions by source and row, as pyarrow finds them in `data/`."""
    table = pyarrow.dataset.dataset(here / "out/data").to_table(columns=[f"{PREFIX}source", f"{PREFIX}row", "caption"])
    rows = {(source, row): caption for source, row, caption in zip(*table.to_pydict().values(), strict=True)}
    assert len(rows) == len(table), "a row is there twice"
    return rows


def kill_after(shards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run dies when it has written so many shards."""
    left = iter(range(shards))

    def commit(*arguments: Any) -> UnitRecord:
        if next(left, None) is None:
            raise Killed
        return commit_shard(*arguments)

    monkeypatch.setattr("pipelines.actors.worker.commit_shard", commit)


def test_beside_an_input_that_is_damaged_another_that_was_replaced_is_there_as_it_is(here: Path) -> None:
    write(here, "a", "a new")
    (here / "in/z.parquet").write_text("junk")
    assert encode(here) == ExitCode.INPUTS_UNREADABLE
    rows = read(here)
    assert len(rows) == 23
    assert [caption for (source, _), caption in rows.items() if source == "a.parquet"] == ["a new"]


def test_an_input_that_cannot_be_read_any_more_keeps_its_rows_until_it_can(here: Path) -> None:
    before = read(here)
    (here / "in/a.parquet").write_text("junk")
    assert encode(here) == ExitCode.INPUTS_UNREADABLE
    assert read(here) == before
    write(here, "a", "a new")
    assert encode(here) == ExitCode.DONE
    assert len(read(here)) == 23


def test_a_killed_run_over_a_replaced_input_leaves_none_of_its_old_rows(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(here, "b", "b new", "b newer")
    kill_after(0, monkeypatch)
    with pytest.raises(Killed):
        encode(here)
    assert {source for source, _ in read(here)} == {f"{name}.parquet" for name in NAMES if name != "b"}


def test_a_killed_run_that_overwrites_leaves_rows_of_its_own_form_only(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_after(5, monkeypatch)
    with pytest.raises(Killed):
        encode(here, overwrite=True, storage_dtype="float32")
    assert len(read(here)) == 10
    forms = pyarrow.dataset.dataset(here / "out/data").to_table()[f"{PREFIX}dtype"]
    assert set(forms.to_pylist()) == {"float32"}


def test_a_run_whose_output_another_has_overwritten_replaces_nothing_of_it(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is through before this one has written its last shard."""
    write(here, "a", "a new")

    cards: list[bytes] = []

    def commit(*arguments: Any) -> UnitRecord:
        if not cards:
            cards.append(b"")
            encode(here, overwrite=True, storage_dtype="float32")
            cards.append((here / "out" / CARD).read_bytes())
        return commit_shard(*arguments)

    monkeypatch.setattr("pipelines.actors.worker.commit_shard", commit)
    with pytest.raises(OutputError, match="another run has overwritten this output"):
        encode(here)
    assert b"float32, float32" in cards[-1]
    assert (here / "out" / CARD).read_bytes() == cards[-1]
