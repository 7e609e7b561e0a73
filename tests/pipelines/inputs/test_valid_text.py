"""Kept texts that are not UTF-8 become ones that every reader opens, and are counted; all else stays what it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import EncodeJob, encode_parquet
from pipelines.commands.fsck import check_output
from pipelines.inputs.valid_text import mend_texts
from pipelines.stores.store import open_store
from t5enc import load_embeddings
from t5enc.checks.inspect import print_output

GOOD, BAD = b"\xc3\xb1", b"caf\xe9"
MENDED = "caf\ufffd"


def as_text(values: list[bytes | None]) -> pa.Array:
    """Bytes that are called text, as a Parquet file may have them."""
    raw = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())


TEXTS = as_text([GOOD, BAD, None, b"", b"\xed\xa0\x80", BAD])
SHOWN = ["ñ", MENDED, None, "", "\ufffd\ufffd\ufffd", MENDED]
COLUMNS: dict[str, tuple[Any, list[Any]]] = {
    "texts": (TEXTS, SHOWN),
    "large": (TEXTS.cast(pa.large_string()), SHOWN),
    "lists": (
        pa.ListArray.from_arrays(pa.array([0, 2, 2, 2, 6]), TEXTS, mask=pa.array([False, True, False, False])),
        [SHOWN[:2], None, [], SHOWN[2:]],
    ),
    "large lists": (pa.LargeListArray.from_arrays(pa.array([0, 2, 6]), TEXTS), [SHOWN[:2], SHOWN[2:]]),
    "pairs": (
        pa.FixedSizeListArray.from_arrays(TEXTS, 2, mask=pa.array([False, True, False])),
        [SHOWN[:2], None, SHOWN[4:]],
    ),
    "structs": (
        pa.StructArray.from_arrays([TEXTS, pa.array(range(6))], ["a", "b"], mask=pa.array([False] * 5 + [True])),
        [*({"a": text, "b": n} for n, text in enumerate(SHOWN[:5])), None],
    ),
    "maps": (
        pa.MapArray.from_arrays(pa.array([0, 2, 2, 6]), as_text([b"1", BAD, b"3", b"4", b"5", b"6"]), TEXTS),
        [[("1", "ñ"), (MENDED, MENDED)], [], [("3", None), ("4", ""), ("5", SHOWN[4]), ("6", MENDED)]],
    ),
    "deep": (
        pa.StructArray.from_arrays([pa.ListArray.from_arrays(pa.array([0, 2, 6]), TEXTS)], ["tags"]),
        [{"tags": SHOWN[:2]}, {"tags": SHOWN[2:]}],
    ),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_texts_are_mended_at_any_depth_and_in_any_slice(name: str) -> None:
    array, expected = COLUMNS[name]
    with pytest.raises(pa.ArrowInvalid):
        array.validate(full=True)
    for start in range(len(array)):
        table = pa.table({"id": range(start, len(array)), "x": array.slice(start)})
        mended, count = mend_texts(table)
        mended.validate(full=True)
        assert mended.schema == table.schema
        assert mended["x"].to_pylist() == expected[start:]
        assert mended["id"] == table["id"]
        assert count > 0 or "caf" not in str(expected[start:])


def test_each_text_is_counted_once() -> None:
    table = pa.table({"x": pa.chunked_array([TEXTS, TEXTS.slice(4)]), "y": TEXTS.slice(0, 1).take([0] * 8)})
    assert mend_texts(table)[1] == 5
    lists = pa.table({"lists": COLUMNS["lists"][0], "large": COLUMNS["maps"][0].take([0, 1, 2, 2])})
    assert sum(mend_texts(lists.slice(row, 1))[1] for row in range(4)) == mend_texts(lists)[1] == 3 + 2 + 2 * 2


def test_sound_columns_are_not_touched() -> None:
    table = pa.table({"x": ["a", None, "ñ"], "y": [["a"], [], None], "z": [b"\xff", None, b""]})
    assert mend_texts(table) == (table, 0)


@pytest.mark.usefixtures("in_process")
def test_an_output_holds_only_utf8_and_says_what_was_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.table({"caption": TEXTS, "other": TEXTS, "n": range(6)}), tmp_path / "a.parquet")
    output = str(tmp_path / "out")
    report = encode_parquet(EncodeJob(inputs=[str(tmp_path / "a.parquet")], output=output, model="builtin:tiny"))
    assert "3 texts of kept columns were not UTF-8: their bad bytes are U+FFFD in the output" in str(report)
    assert check_output(open_store(output), deep=True) == []
    table, _ = load_embeddings(output)
    assert table["other"].to_pylist() == SHOWN
    assert table["caption"].to_pylist() == ["ñ", None, None, "", None, None]
    bad = "not UTF-8"
    assert table["text_embedding_error"].to_pylist() == [None, bad, "null caption", None, bad, bad]
    print_output(output, rows=6, partial=False)
    assert MENDED in capsys.readouterr().out


@pytest.mark.usefixtures("in_process")
def test_what_an_earlier_release_kept_is_shown_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"caption": ["a"] * 6, "other": TEXTS}), tmp_path / "a.parquet")
    output = str(tmp_path / "out")
    monkeypatch.setattr("pipelines.actors.shard_writer.mend_texts", lambda table: (table, 0))
    encode_parquet(EncodeJob(inputs=[str(tmp_path / "a.parquet")], output=output, model="builtin:tiny"))
    print_output(output, rows=6, partial=False)
    assert capsys.readouterr().out.count("(not UTF-8)") == 3
