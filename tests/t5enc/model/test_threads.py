"""A Flex kernel for CPUs is called with as many threads as its buffers are for, whatever other threads have set."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from t5enc import TextEncoder
from t5enc.model.threads import holding_num_threads, set_num_threads

REPOSITORY = Path(__file__).resolve().parents[3]
OTHERS = 8


def run_aside(function: Any, *given: Any) -> Any:
    """What a function returns in a thread that is new."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *given).result()


@pytest.fixture
def own() -> Iterator[int]:
    """This thread's number, where another thread has set a larger one."""
    own = torch.get_num_threads()
    run_aside(set_num_threads, OTHERS + own)
    yield own
    torch.set_num_threads(own)


def test_what_another_thread_sets_counts_for_those_that_begin_later(own: int) -> None:
    assert torch.get_num_threads() == own
    assert run_aside(torch.get_num_threads) == OTHERS + own


def test_it_is_this_threads_number_while_it_is_held(own: int) -> None:
    with holding_num_threads():
        assert torch.get_num_threads() == own
        assert run_aside(torch.get_num_threads) == own


def test_nobody_sets_another_number_meanwhile(own: int) -> None:
    with ThreadPoolExecutor(1) as pool:
        with holding_num_threads():
            setting = pool.submit(set_num_threads, OTHERS + own)
            assert not setting.done()
            assert run_aside(torch.get_num_threads) == own
        setting.result()
    assert run_aside(torch.get_num_threads) == OTHERS + own


def test_a_compiled_block_with_a_mask_is_called_so(own: int, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TextEncoder.from_pretrained("builtin:tiny", attention="flex")
    seen: list[int] = []

    def compute(block: Any, residual: torch.Tensor, *_: Any) -> torch.Tensor:
        seen.append(run_aside(torch.get_num_threads))
        return residual

    monkeypatch.setattr(encoder.encoder.compiled, "_compiled", compute)
    encoder.encode(["a red bird"])
    assert seen == [own] * encoder.config.num_layers


FIRST_CALL = f"""
import threading, torch
from t5enc import TextEncoder

assert torch.get_num_threads() == 1
setting = threading.Thread(target=torch.set_num_threads, args=({OTHERS * 4},))
setting.start()
setting.join()
torch.testing.assert_close(
    TextEncoder.from_pretrained("builtin:tiny", attention="flex").encode(["a red bird"] * 400).values,
    TextEncoder.from_pretrained("builtin:tiny", attention="sdpa").encode(["a red bird"] * 400).values,
    rtol=0, atol=1e-4,
)
"""


@pytest.mark.long
def test_the_first_call_of_a_kernel_writes_nothing_beyond_its_buffers(compiler: None) -> None:
    environ = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run([sys.executable, "-c", FIRST_CALL], env=environ, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, (ended.returncode, ended.stderr)
