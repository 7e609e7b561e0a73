"""Units that are read and tokenized in one process and encoded in another: as if it were one, whoever dies."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from pipelines import EncodeJob, encode_parquet
from pipelines import encode as encode_module
from pipelines.actors import reader as reader_module
from pipelines.actors.handover import Handover
from pipelines.actors.reader import UnitReader
from pipelines.actors.tasks import SpanResult, SpanTask
from pipelines.actors.tokenizers import TokenizerActor
from pipelines.actors.worker import SpanWorker
from pipelines.commands.fsck import check_output
from pipelines.commit.records import read_footer_record
from pipelines.progress.ledger import ATTEMPTS
from pipelines.run import dispatch as dispatch_module
from pipelines.stores.store import open_store
from t5enc import TextEncoder, load_embeddings
from t5enc.checkpoint.builtin import sample_captions
from t5enc.errors import ConfigError, OutputError, SourceError
from t5enc.options import EncoderOptions
from tests.pipelines.actors.caption_files import list_kept
from tests.pipelines.actors.fake_encoder import Death, FakeActor, FakeEncoder
from tests.pipelines.conftest import WriteCaptions
from tests.pipelines.driving import PacedWorker
from tests.pipelines.killing import POISON, PoisonedTokenizer, PoisonedTokensWorker
from tests.pipelines.one_process import TEXTS, Setting, hide_ray, lay_out, rows_of


class FakeTokenizer(TokenizerActor):
    """What the actor does, with a tokenizer that makes bytes of texts."""

    def __init__(self, reader: UnitReader, preparer: Any = None) -> None:
        self.reader = reader
        self.preparer = preparer or FakeEncoder()


def prepare(setting: Setting, preparer: Any = None, task: SpanTask | None = None) -> list[Any]:
    """What a tokenizer sends on, unpickled."""
    batch = pa.table({"tasks": [pickle.dumps([task or setting.task])]})
    tables = list(FakeTokenizer(setting.worker().reader, preparer)(batch))
    assert {table.num_rows for table in tables} <= {1}, "a unit travels alone"
    return [pickle.loads(table["units"][0].as_py()) for table in tables]


def encode(setting: Setting, items: Sequence[Any], encoder: FakeEncoder | None = None, **options: str) -> list[Any]:
    """What an encoder makes of what it is sent."""
    batch = pa.table({"units": [pickle.dumps(item) for item in items]})
    table = setting.worker(**options)(FakeActor(encoder or FakeEncoder()), batch)  # type: ignore[arg-type]
    return [result for results in table["results"].to_pylist() for result in pickle.loads(results)]


def describe(items: Sequence[Handover | SpanResult]) -> list[str]:
    return [item.kind if isinstance(item, SpanResult) else "prepared" for item in items]


def test_both_steps_store_what_one_stores(setting: Setting, tmp_path: Path) -> None:
    results = encode(setting, prepare(setting))
    assert rows_of(results, "unit") == [0, 3, 6]
    assert setting.stored() == {0: TEXTS[:3], 3: TEXTS[3:6], 6: TEXTS[6:]}
    for result, unit in zip(results, setting.units, strict=True):
        assert result.record == read_footer_record(setting.store, unit.name)
    (tmp_path / "plain").mkdir()
    plain = lay_out(tmp_path / "plain")
    plain.run(FakeEncoder())
    names = [name for name, _ in setting.store.list()]
    assert names == [name for name, _ in plain.store.list()]
    assert all(setting.store.read(name) == plain.store.read(name) for name in names if name.startswith("a.parquet"))


def test_ids_and_kept_columns_travel_and_texts_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_ray(monkeypatch)
    setting = lay_out(tmp_path, [f"{row} {'x' * 1000}" for row in range(300)])
    items = prepare(setting)
    assert all(item.prepared.batch.texts == [] for item in items)
    assert list_kept(items[1].unpack().batch)["caption"].to_pylist()[0].startswith("3 xxx")
    assert len(pickle.dumps(items[1])) < 3 * 3000, "its own three rows, and nothing of its neighbours"


def test_a_hand_over_is_no_death(setting: Setting) -> None:
    items = prepare(setting)
    ledger = setting.ledger
    assert ledger.find_suspects([unit.id for unit in setting.units]) == []
    assert ledger.read().most_ahead == 3
    encode(setting, items)
    assert (ledger.read().cost.unit_retries, ledger.read().cost.units, ledger.attempts, ledger.handed) == (
        0,
        3,
        {},
        set(),
    )


def test_the_death_of_a_tokenizer_counts_once_though_the_unit_is_begun_in_both_processes(setting: Setting) -> None:
    unit = setting.units[0]
    setting.ledger.begin(unit.id, "here")  # and died
    encode(setting, prepare(setting))
    assert setting.ledger.read().cost.unit_retries == 1
    assert setting.ledger.attempts == {}


def test_a_tokenizer_that_dies_is_repeated_and_each_unit_keeps_its_place(setting: Setting) -> None:
    """Ray drops as many of the new outputs as there were before."""

    class Dying(FakeEncoder):
        def prepare(self, texts: Sequence[str]) -> Any:
            if TEXTS[4] in texts:
                raise Death
            return super().prepare(texts)

    got: list[Any] = []
    for _ in range(ATTEMPTS + 1):
        tokenizer = FakeTokenizer(setting.worker().reader, Dying())
        try:
            for place, item in enumerate(tokenizer.prepare(setting.task)):
                if place >= len(got):
                    got += [item]
                    encode(setting, [item])  # which commits it before the tokenizer dies
        except Death:
            continue
    assert describe(got) == ["prepared", "suspect", "prepared"]
    assert got[1].unit == setting.units[1]
    assert setting.stored() == {0: TEXTS[:3], 6: TEXTS[6:]}


def test_a_unit_that_kills_its_encoder_is_left_to_be_encoded_alone(setting: Setting) -> None:
    items = prepare(setting)
    encoder = FakeEncoder(killers=[TEXTS[4]])
    for _ in range(ATTEMPTS):
        with pytest.raises(Death):
            encode(setting, [items[1]], encoder)
    results = encode(setting, items, encoder)
    assert (rows_of(results, "unit"), rows_of(results, "suspect")) == ([0, 6], [3])
    assert results[1].span == setting.task.span


def test_a_card_that_fails_ends_the_encoder_when_the_unit_before_is_written(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, (item, *_) = setting.worker(), prepare(setting)
    is_written = threading.Event()

    def fail(*_: Any, **__: Any) -> Any:
        raise torch.AcceleratorError("unknown")

    def end_life(_: int) -> None:
        assert is_written.is_set()
        raise Death

    def write() -> None:
        is_written.set()
        worker._writing.__exit__()

    monkeypatch.setattr("pipelines.actors.worker.os._exit", end_life)
    monkeypatch.setattr(FakeEncoder, "encode_ragged", fail)
    worker._writing.__enter__()
    threading.Timer(0.05, write).start()
    with pytest.raises(Death):
        worker.run_unit(FakeActor(FakeEncoder()), item)  # type: ignore[arg-type]
    assert setting.ledger.attempts[setting.units[0].id] == ["here"]


def test_units_that_are_done_are_neither_sent_nor_encoded_again(setting: Setting) -> None:
    items = prepare(setting, task=replace(setting.task, done=frozenset({0, 6})))
    assert [item.prepared.unit.first_row for item in items] == [3]
    (record,) = (result.record for result in encode(setting, items))
    encoder = FakeEncoder()
    assert [result.record for result in encode(setting, items, encoder)] == [record]
    assert encoder.streams == [], "a process that died after its commit is repeated"
    assert describe(prepare(setting)) == ["prepared", "unit", "prepared"]


def test_an_input_that_cannot_be_read_is_told_and_its_other_units_keep_their_place(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = reader_module.read_captions

    def read_one(*arguments: Any, **options: Any) -> Iterator[Any]:
        yield next(read(*arguments, **options))
        raise SourceError("a.parquet: row group 0: expected readable pages")

    monkeypatch.setattr(reader_module, "read_captions", read_one)
    results = encode(setting, prepare(setting))
    assert [result.kind for result in results] == ["unit", "unreadable", "returned"]
    assert results[1].reason == "a.parquet: row group 0: expected readable pages"
    assert setting.ledger.attempts == {}, "it is unreadable, and not what killed"


def test_a_node_that_is_leaving_returns_what_it_has(setting: Setting) -> None:
    items = prepare(setting)
    setting.ledger.leave({"here"})
    assert describe(prepare(setting)) == ["returned"] * 3
    assert [result.kind for result in encode(setting, items)] == ["returned"] * 3
    assert setting.stored() == {}
    assert setting.ledger.handed == set()


def test_a_caption_without_embedding_fails_the_run_where_asked_to(setting: Setting) -> None:
    results = encode(setting, prepare(setting), FakeEncoder(failing=[TEXTS[0]]), on_error="fail")
    assert results[0].kind == "fatal"
    assert "a.parquet, row 0" in results[0].reason


OPTIONS = EncoderOptions(model="builtin:tiny")


def test_a_tokenizer_that_is_not_the_jobs_is_refused(setting: Setting) -> None:
    with pytest.raises(OutputError, match="tokenizer: this actor loaded another one"):
        TokenizerActor(OPTIONS, setting.worker())
    progress = setting.ledger.read()
    assert (progress.tokenizers_started, progress.tokenizers_ready, progress.actors_left) == (1, 0, 0)
    assert progress.failure.startswith("OutputError: tokenizer: this actor loaded another one"), "the watch knows why"


def test_a_tokenizer_with_other_code_is_refused(setting: Setting) -> None:
    worker = setting.worker()
    worker.code = {"t5enc": "source abc", "Python": "3.11", "torch": "2.13"}
    with pytest.raises(ConfigError, match="t5enc: expected source abc"):
        TokenizerActor(OPTIONS, worker)


def test_a_worker_with_its_turns_can_be_sent_to_another_process(setting: Setting) -> None:
    worker = SpanWorker(setting.job, "out", None, None)
    sent = pickle.loads(pickle.dumps(worker))
    assert sent.reader.attempts is sent.attempts
    with sent._encoding, sent._counting:
        pass


def make_job(inputs: Path, output: Path, **options: object) -> EncodeJob:
    usual: dict[str, object] = {"model": "builtin:tiny", "storage_dtype": "float32", "cpus_per_actor": 1}
    return EncodeJob.from_mapping(usual | {"inputs": [str(inputs)], "output": str(output)} | options)


@pytest.mark.cluster
@pytest.mark.usefixtures("local_ray")
def test_tokenizers_do_not_run_far_ahead_of_an_encoder_that_is_slow(
    write_captions: WriteCaptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in-hand").mkdir()
    monkeypatch.setattr(encode_module, "SpanWorker", PacedWorker)
    monkeypatch.setattr(dispatch_module, "WAITING_BYTES", 20_000)
    report = encode_parquet(make_job(write_captions(), tmp_path / "out", rows_per_shard=8, tokenizers=1))
    assert report.progress.cost.units == 41
    assert 1 <= report.progress.most_ahead <= 15, "as many as fit into 20 kB, and those that are on their way"


@pytest.mark.cluster
@pytest.mark.usefixtures("local_ray")
def test_a_caption_that_kills_its_tokenizer_becomes_null_and_its_neighbours_are_safe(
    write_captions: WriteCaptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = sample_captions()[:12]
    captions[4] = POISON
    monkeypatch.setattr(dispatch_module, "TokenizerActor", PoisonedTokenizer)
    monkeypatch.setattr(encode_module, "SpanWorker", PoisonedTokensWorker)
    report = encode_parquet(make_job(write_captions(captions), tmp_path / "out", rows_per_shard=3, tokenizers=1))
    table, embeddings = load_embeddings(tmp_path / "out")
    expected = TextEncoder.from_pretrained("builtin:tiny").encode(captions)
    errors = table["text_embedding_error"].to_pylist()
    assert errors == [None] * 4 + ["encoder died"] + [None] * 7
    assert table["caption"].to_pylist() == captions
    for place in set(range(12)) - {4}:
        torch.testing.assert_close(embeddings[place], expected[place], rtol=2e-5, atol=2e-5)
    assert (report.totals["died"], report.totals["encoded"], report.exit_code) == (1, 11, 3)
    assert (report.progress.tokenizers_started, report.progress.cost.unit_retries) == (3, 1)
    assert check_output(open_store(str(tmp_path / "out")), deep=True) == []
