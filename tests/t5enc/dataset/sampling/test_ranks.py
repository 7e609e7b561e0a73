"""Rank and world size: those given, torch.distributed's, torchrun's, or one process; others are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.distributed
import torch.multiprocessing

from t5enc.dataset.sampling.ranks import find_rank, read_environment
from t5enc.errors import ConfigError


def test_what_is_given_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert find_rank(3, 8) == (3, 8)
    assert find_rank() == (1, 2)


def test_one_process_is_alone() -> None:
    assert read_environment({}) == (0, 1)


@pytest.mark.parametrize("given", [(None, 2), (0, None)])
def test_one_without_the_other_is_refused(given: tuple[int | None, int | None]) -> None:
    with pytest.raises(ConfigError, match="rank and world_size: expected both or neither"):
        find_rank(*given)


@pytest.mark.parametrize("given", [(2, 2), (-1, 2), (0, 0)])
def test_a_rank_outside_of_the_world_is_refused(given: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="expected a rank from 0 to the world size - 1"):
        find_rank(*given)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0"}, "expected whole numbers in both or neither, got '0' and None"),
        ({"WORLD_SIZE": "2"}, "expected whole numbers in both or neither, got None and '2'"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "expected whole numbers in both or neither"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK and WORLD_SIZE: expected a rank from 0"),
    ],
)
def test_an_environment_that_contradicts_itself_is_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_environment(environment)


def report_rank(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    Path(folder, f"rank-{rank}").write_text(repr(find_rank()), encoding="utf-8")
    torch.distributed.barrier()  # one that leaves while the other still connects ends it
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs a torch with gloo")
def test_two_processes_are_told_apart_by_torch_distributed(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(report_rank, (str(tmp_path),), nprocs=2)
    assert [(tmp_path / f"rank-{rank}").read_text("utf-8") for rank in (0, 1)] == ["(0, 2)", "(1, 2)"]
