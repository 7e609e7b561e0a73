"""Names of input files: below their own root, apart from each other, and kept once an output has them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.inputs.names import Content, Given, Remembered, choose_names, escape, hash_path, own_root

ONE, TWO = Content(10, "one"), Content(10, "two")


@pytest.mark.parametrize(
    ("folder", "root"),
    [
        ("/data", "/data"),
        ("/data/lang=en", "/data"),
        ("/a=1/b=2", ""),
        ("b/=x", "b/=x"),
        ("x=1", ""),
        ("/a=1/b", "/a=1/b"),
    ],
)
def test_partitions_at_the_end_of_an_input_are_below_its_root(folder: str, root: str) -> None:
    assert own_root(folder) == root


def test_a_name_is_text_whatever_the_bytes_of_the_path() -> None:
    assert escape("a/caf\udce9/日本%41") == "a/caf%E9/日本%41"
    assert escape("100%.parquet") == "100%.parquet"


@pytest.mark.parametrize(
    ("paths", "depths", "expected"),
    [
        (["/in/a", "/in/b"], [1, 1], ["a", "b"]),
        (["/x/2023/0", "/x/2024/0"], [1, 1], ["2023/0", "2024/0"]),
        (["/x/2023/0", "/x/2023/1"], [2, 1], ["2023/0", "1"]),
        (["/a/2023/0", "/b/2023/0", "/b/2024/0"], [1, 1, 1], ["a/2023/0", "b/2023/0", "2024/0"]),
        # Longer names may meet others in turn.
        (["/a/s/0", "/a/b/0", "/c/b/0"], [1, 1, 2], ["s/0", "a/b/0", "c/b/0"]),
        # There is no more of a path than all of it.
        (["0", "x/0"], [1, 1], ["_2/0", "x/0"]),
        (["0", "_2/0"], [1, 1], ["_3/0", "_3/_2/0"]),
    ],
)
def test_files_of_one_name_get_more_of_their_paths(paths: list[str], depths: list[int], expected: list[str]) -> None:
    assert choose_names(paths, depths) == expected


def name(
    paths: Sequence[str], depths: Sequence[int], contents: Sequence[Content | None], **there: Content
) -> list[str]:
    """Names where an output holds these contents under names with `_` for `/`."""
    names = {key.replace("_", "/"): {content: Given(0)} for key, content in there.items()}
    return choose_names(paths, depths, contents, Remembered(names=names, columns=()))


def test_a_file_keeps_its_name_whatever_is_given_beside_it() -> None:
    assert name(["/x/a/f", "/x/b/f"], [1, 1], [ONE, TWO], f=ONE) == ["f", "b/f"]
    assert name(["/x/a/f", "/x/b/f"], [2, 2], [ONE, TWO], f=ONE) == ["f", "b/f"]
    assert name(["/x/a/f"], [1], [ONE], a_f=ONE) == ["a/f"]


def test_another_content_under_a_name_keeps_nothing() -> None:
    assert name(["/x/a/f"], [1], [TWO], a_f=ONE) == ["f"]
    assert name(["/x/a/f"], [1], [None], a_f=ONE) == ["f"]
    assert name(["/x/a/g"], [1], [ONE], a_f=ONE) == ["g"]


def test_no_file_keeps_a_name_that_is_anothers_own() -> None:
    assert name(["/x/a/f", "/x/f"], [2, 1], [ONE, TWO], f=ONE) == ["a/f", "f"]
    assert name(["/x/a/f", "/x/f"], [2, 1], [ONE, None], f=ONE) == ["a/f", "f"]


@pytest.mark.parametrize(("place", "expected"), [("/x/b/f", ["a/f", "f"]), ("/x/a/f", ["f", "b/f"]), ("", None)])
def test_of_files_that_look_equal_only_the_one_that_lies_where_it_was_keeps_its_name(
    place: str, expected: list[str] | None
) -> None:
    there = Remembered(names={"f": {ONE: Given(0, hash_path(place))}}, columns=())
    assert choose_names(["/x/a/f", "/x/b/f"], [1, 1], [ONE, ONE], there) == (expected or ["a/f", "b/f"])


def test_a_name_that_may_have_been_either_ones_is_nobodys() -> None:
    assert name(["/x/s/f", "/x/f"], [2, 1], [ONE, ONE], f=ONE) == ["s/f", "x/f"]
    there = Remembered(names={"f": {ONE: Given(0, hash_path("/x/s/f"))}}, columns=())
    assert choose_names(["/x/s/f", "/x/f"], [2, 1], [ONE, ONE], there) == ["s/f", "x/f"]
    there = Remembered(names={"f": {ONE: Given(0, hash_path("/x/f"))}}, columns=())
    assert choose_names(["/x/s/f", "/x/f"], [2, 1], [ONE, ONE], there) == ["s/f", "f"]


def test_a_file_that_lies_where_it_was_had_that_name_and_no_other_in_that_run() -> None:
    """Of the name that it might have had, too, another file's rows may be there."""
    there = {"n/f": {ONE: Given(0, hash_path("/x/m/n/f"))}, "f": {ONE: Given(0, hash_path("/x/k/n/f"))}}
    paths = ["/x/k/n/f", "/x/m/k/f"]
    assert choose_names(paths, [2, 1], [ONE, ONE], Remembered(names=there, columns=())) == ["k/n/f", "k/f"]


def test_who_had_another_name_in_a_run_had_no_second_one() -> None:
    """So copies keep their names wherever their tree is mounted."""
    assert name(["/x/b/f", "/x/a/f"], [1, 1], [ONE, ONE], f=ONE, b_f=ONE) == ["b/f", "f"]
    assert name(["/x/b/f", "/x/f"], [2, 1], [ONE, ONE], f=ONE, b_f=ONE) == ["b/f", "f"]
    there = Remembered(names={"f": {ONE: Given(0)}, "b/f": {ONE: Given(1)}}, columns=())
    assert choose_names(["/x/b/f", "/x/a/f"], [1, 1], [ONE, ONE], there) == ["b/f", "a/f"]


def test_the_latest_name_counts_and_an_older_one_where_it_is_free() -> None:
    there = Remembered(names={"a/f": {ONE: Given(0)}, "f": {ONE: Given(1), TWO: Given(2)}}, columns=())
    assert choose_names(["/x/a/f"], [1], [ONE], there) == ["f"]
    assert choose_names(["/x/a/f", "/x/b/f"], [1, 1], [ONE, TWO], there) == ["a/f", "f"]


@pytest.mark.parametrize(("columns", "expected"), [((), "f"), (("lang",), "lang=en/f"), (("other",), "f")])
def test_no_name_is_kept_that_says_less_of_a_partition_that_is_kept(columns: Sequence[str], expected: str) -> None:
    there = Remembered(names={"f": {ONE: Given(0)}}, columns=columns)
    assert choose_names(["/x/lang=en/f"], [2], [ONE], there) == [expected]


TREE = [f"/top/{a}/{b}/{c}" for a in ("k", "l=1", "m") for b in ("k", "n") for c in ("f", "g")]
ROOTS = ["/top", *(f"/top/{a}" for a in ("k", "l=1", "m")), *(f"/top/{a}/{b}" for a in "km" for b in "kn")]


@given(st.lists(st.sets(st.sampled_from(ROOTS), min_size=1), min_size=1, max_size=6), st.data())
def test_a_file_keeps_the_name_that_it_had_in_the_run_before(inputs: list[set[str]], data: st.DataObject) -> None:
    """Whatever folders are given in turn. Files that look equal may be named anew, but none has another's rows."""
    contents = {path: data.draw(st.sampled_from([ONE, TWO, Content(1, path)]), label=path) for path in TREE}
    names: dict[str, dict[Content, Given]] = {}
    origins: dict[tuple[str, Content], str] = {}
    before: dict[str, str] = {}
    for run, roots in enumerate(inputs):
        depths = {}
        for path in TREE:
            own = [own_root(root) for root in roots if path.startswith(f"{root}/")]
            if own:
                depths[path] = path.removeprefix(min(own, key=len)).count("/")
        given_contents = [contents[path] for path in depths]
        chosen = choose_names(list(depths), list(depths.values()), given_contents, Remembered(names=names, columns=()))
        assert len(set(chosen)) == len(chosen)
        backwards = choose_names(
            list(depths)[::-1],
            list(depths.values())[::-1],
            given_contents[::-1],
            Remembered(names=names, columns=()),
        )
        assert backwards[::-1] == chosen, "the order of inputs has no bearing"
        assert all(path.endswith(f"/{name}") for path, name in zip(depths, chosen, strict=True))
        alone = set(choose_names(list(depths), list(depths.values())))
        for path, name in zip(depths, chosen, strict=True):
            is_one_of_a_kind = list(contents.values()).count(contents[path]) == 1
            assert not is_one_of_a_kind or name == before.get(path, name) or before[path] in alone
            origin = origins.setdefault((name, contents[path]), path)
            assert origin == path or origin not in depths, "one's rows are another's"
        before = dict(zip(depths, chosen, strict=True))
        for path, name in before.items():
            given = names.setdefault(name, {}).get(contents[path])
            place = hash_path(path)
            is_moved = given is not None and given.place != place
            names[name][contents[path]] = Given(run, "" if is_moved else place)
