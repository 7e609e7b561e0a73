"""The training example learns what its page says, from what is stored as from fresh embeddings, whatever is killed."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from pipelines import EncodeJob
from tests.pipelines.in_process import encode_in_process

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"
PAGE = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
MEASURED = json.loads((ROOT / "docs" / "pictures" / "training.json").read_text(encoding="utf-8"))
# What the page says that a run reaches.
LOSS_WITH, LOSS_WITHOUT = (float(found) for found in re.findall(r"(?:below|above) \*\*(0\.\d+)\*\*", PAGE))


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    """The script, as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        yield importlib.import_module("train_flow")
        for name in ("train_flow", "flow", "shapes"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def embeddings(example: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's captions, encoded as its page says."""
    pytest.importorskip("bs4", reason="needs t5enc[recipes]")
    pytest.importorskip("ftfy", reason="needs t5enc[recipes]")
    folder = tmp_path_factory.mktemp("shapes")
    sys.modules["shapes"].write_captions(folder / "captions")  # type: ignore[attr-defined]
    output = folder / "embeddings"
    job = EncodeJob(
        inputs=[str(folder / "captions")],
        output=str(output),
        model="builtin:tiny",
        recipe="pixart_sigma",
        storage_dtype="float32",
    )
    encode_in_process(job)
    return output


def make_options(embeddings: Path, checkpoint: Path, **options: Any) -> argparse.Namespace:
    usual = {"steps": 6, "save_every": 2, "seed": 0, "dropout": 0.1, "on_the_fly": None, "bf16": False}
    return argparse.Namespace(embeddings=embeddings, checkpoint=checkpoint, **usual | options)


@pytest.fixture
def brief(example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No evaluation over all pictures at the end, and one thread: products as small as these lose by more."""
    monkeypatch.setattr(example, "evaluate", lambda *_, **__: 0.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("brief")
def test_a_killed_run_goes_on_to_the_very_same_losses(
    example: ModuleType, embeddings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = example.train(make_options(embeddings, tmp_path / "undisturbed.pt"))
    killed = make_options(embeddings, tmp_path / "killed.pt")
    with monkeypatch.context() as patch:
        patch.setattr(example, "take_step", fail_after(example.take_step, steps=3))
        with pytest.raises(KeyboardInterrupt):
            example.train(killed)
    assert torch.load(killed.checkpoint, weights_only=True)["losses"] == undisturbed[:2]
    assert example.train(killed) == undisturbed
    assert list(tmp_path.glob("*.tmp")) == []


@pytest.mark.usefixtures("brief")
def test_fresh_embeddings_give_the_losses_of_stored_ones(example: ModuleType, embeddings: Path, tmp_path: Path) -> None:
    """A third of the captions are dropped, so that null rows are compared, too."""
    stored = example.train(make_options(embeddings, tmp_path / "stored.pt", steps=4, dropout=0.3))
    fresh = make_options(embeddings, tmp_path / "fresh.pt", steps=4, dropout=0.3, on_the_fly="builtin:tiny")
    assert example.train(fresh) == pytest.approx(stored, rel=1e-4)


@pytest.mark.usefixtures("brief")
def test_products_in_bfloat16_give_nearly_the_same_losses(
    example: ModuleType, embeddings: Path, tmp_path: Path
) -> None:
    exact = example.train(make_options(embeddings, tmp_path / "exact.pt", steps=2))
    near = example.train(make_options(embeddings, tmp_path / "near.pt", steps=2, bf16=True))
    assert near == pytest.approx(exact, rel=0.01)
    assert near != exact


def test_noise_is_of_a_picture_and_not_of_its_place(example: ModuleType) -> None:
    noise, time = example.draw_noise(0, 3, [7, 5])
    alone, moment = example.draw_noise(0, 3, [5])
    assert torch.equal(noise[1], alone[0])
    assert time[1] == moment[0]
    assert not torch.equal(alone, example.draw_noise(0, 4, [5])[0])


def test_each_caption_has_a_picture_of_its_own(example: ModuleType) -> None:
    captions, images = sys.modules["shapes"].list_captions(), example.draw_images()  # type: ignore[attr-defined]
    assert len(set(captions)) == len(captions) == len(images)
    assert len(images.flatten(1).unique(dim=0)) == len(images)
    assert (images.min(), images.max()) == (-1, 1)


def test_a_number_of_processes_that_does_not_divide_a_step_is_refused(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SystemExit, match="divides 2, got 3"):
        example.join_processes()


def test_the_measured_curves_are_those_that_the_page_describes() -> None:
    blind, stored, fresh = (run["losses"] for run in MEASURED["runs"])
    assert fresh == pytest.approx(stored, rel=0.01)
    assert sum(blind[-40:]) > 2 * sum(stored[-40:])


def test_the_first_lines_of_the_page_run(embeddings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(embeddings.parent)
    found: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[:3]:
        exec(compile(block, "train.md", "exec"), found)
    assert found["loader"].epoch == 10
    assert found["row"] == found["data"].find_by("id", 17)
    assert found["rows"].tolist() == [17]


@pytest.mark.long
def test_two_ranks_are_killed_and_one_goes_on_to_the_loss_of_the_page(embeddings: Path, tmp_path: Path) -> None:
    arguments = [str(EXAMPLES / "train_flow.py"), str(embeddings), "--checkpoint", "run.pt", "--curve", "curve.json"]
    two = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *arguments]
    kill_when(two, "step 160 ", tmp_path)
    before = torch.load(tmp_path / "run.pt", weights_only=True)["losses"]
    assert 160 <= len(before) < 400
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with_captions, without = (float(found) for found in re.findall(r"captions (0\.\d+)", done.stdout))
    assert with_captions < LOSS_WITH
    assert without > LOSS_WITHOUT
    losses = json.loads((tmp_path / "curve.json").read_text(encoding="utf-8"))
    assert losses[: len(before)] == pytest.approx(before, abs=1e-6)
    assert losses == pytest.approx(MEASURED["runs"][1]["losses"], rel=0.1)


def fail_after(take_step: Any, *, steps: int) -> Any:
    """A step that ends the run when so many have been taken."""
    left = steps

    def take(*arguments: Any) -> float:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        loss: float = take_step(*arguments)
        return loss

    return take


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def kill_when(command: list[str], said: str, folder: Path) -> None:
    """Start a command, and kill it and its children with SIGKILL when it says something."""
    with subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        lines: list[str] = []
        while not (lines and lines[-1].startswith(said)):
            line = process.stdout.readline()
            assert line, "".join(lines)
            lines.append(line)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in (process.pid, *map(int, children)):
            os.kill(pid, signal.SIGKILL)
        process.stdout.read()
