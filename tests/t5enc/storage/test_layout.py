"""Folders of sources: each source has its own, and every way to sort paths gives one order."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5enc.storage.layout import DATA, LONGEST, name_folder

PARTS = st.text(st.sampled_from("ab0-._ %=~é+#"), min_size=1, max_size=5) | st.sampled_from(
    ["train", "test", "eval-dev", "x.parquet", "year=2024", "part-00000", "a" * 200]
)
SOURCES = st.builds("/".join, st.lists(PARTS, min_size=1, max_size=3)).flatmap(
    lambda name: st.sampled_from([name, f"{name}.parquet", f"{name}.pq"])
)
SOME = st.lists(SOURCES, unique=True, min_size=2, max_size=8).map(lambda sources: [name_folder(s) for s in sources])


@given(folders=SOME)
def test_no_two_sources_have_one_folder_and_none_lies_in_anothers(folders: list[str]) -> None:
    assert len({*folders}) == len(folders)
    assert not any(other.startswith(f"{folder}/") for folder in folders for other in folders)


@given(folders=SOME)
def test_paths_sort_part_by_part_as_they_do_whole(folders: list[str]) -> None:
    assert sorted(folders, key=lambda name: name.split("/")) == sorted(folders)


@given(source=SOURCES)
def test_a_folder_is_no_partition_nothing_hidden_and_named_like_no_file(source: str) -> None:
    data, *parts = name_folder(source).split("/")
    assert data == DATA
    for part in parts:
        assert re.fullmatch(r"[A-Za-z0-9%~-][A-Za-z0-9%~._-]*_", part)
        assert len(part) <= LONGEST + 3


@pytest.mark.parametrize(
    ("source", "folder"),
    [
        ("captions.parquet", "captions_"),
        ("part-00000.parquet", "part-00000_"),
        ("2024/a b.parquet", "2024__/a%20b_"),
        ("year=2024/x.parquet", "year%3D2024__/x_"),
        ("x.parquet/y.parquet", "x.parquet__/y_"),
        ("train-00000-of-00002.parquet", "trai%6E-00000-of-00002_"),
        ("training_set.parquet", "trainin%67_set_"),
        ("trains.parquet", "trains_"),
        ("_x/.y.parquet", "%5Fx__/%2Ey_"),
        ("x.pq", "x.pq___"),
        ("x.PARQUET", "x.PARQUET___"),
        ("\udcff.parquet", "%FF_"),
    ],
)
def test_a_folder_is_called_like_its_source(source: str, folder: str) -> None:
    """Or a job that was begun with an older version would begin anew."""
    assert name_folder(source) == f"{DATA}/{folder}"
