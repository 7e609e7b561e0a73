"""Sharded by FSDP2 over two processes, an encoder has the outputs and gradients it has alone."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed

from tests.t5enc.conftest import Make

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed"),
]

WORKER = """
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
import t5enc.hf
from t5enc.errors import InputError

folder, family = sys.argv[1:]
torch.set_num_threads(1)
dist.init_process_group("gloo")
model_class = getattr(t5enc.hf, family)
plain, sharded = model_class.from_pretrained(folder), model_class.from_pretrained(folder)
mesh = torch.distributed.init_device_mesh("cpu", (2,))
for block in sharded.encoder.block:
    fully_shard(block, mesh=mesh)
fully_shard(sharded, mesh=mesh)
assert all(isinstance(parameter, DTensor) for parameter in sharded.parameters())
generator = torch.Generator().manual_seed(0)
ids = torch.randint(2, 300, (4, 19), generator=generator)
mask = torch.arange(19) < torch.tensor([19, 4, 11, 1])[:, None]
rank = dist.get_rank()
mine = slice(2 * rank, 2 * rank + 2)

expected = plain(ids, attention_mask=mask)[0]
expected.square().sum().backward()
found = sharded(ids[mine], attention_mask=mask[mine])[0]
torch.testing.assert_close(found, expected[mine], rtol=2e-5, atol=2e-5)
found.square().sum().backward()
for (name, parameter), (_, alone) in zip(sharded.named_parameters(), plain.named_parameters(), strict=True):
    gradient = 2 * parameter.grad.full_tensor()  # FSDP averages over processes
    error = (gradient - alone.grad).norm() / alone.grad.norm()
    assert error < 2e-5, (name, float(error))

policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, output_dtype=torch.float32, cast_forward_inputs=False)
for is_right in (True, False):
    mixed = model_class.from_pretrained(folder)
    chosen = policy if is_right else MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    for block in mixed.encoder.block:
        fully_shard(block, mesh=mesh, mp_policy=chosen)
    fully_shard(mixed, mesh=mesh, mp_policy=chosen)
    try:
        found = mixed(ids[mine], attention_mask=mask[mine])[0]
        assert is_right
        error = (found - expected[mine]).norm() / expected[mine].norm()
        assert 1e-4 < error < 2e-2, float(error)
    except InputError as refused:
        assert not is_right
        assert "cast_forward_inputs=False" in str(refused)
dist.barrier()
dist.destroy_process_group()
Path(__file__).with_name(f"equal {rank}").touch()
"""


@pytest.mark.parametrize(("family", "name"), [("t5_v1_1", "T5EncoderModel"), ("umt5", "UMT5EncoderModel")])
def test_two_processes_equal_one(family: str, name: str, make: Make, tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    done = subprocess.run(
        [*command, str(script), str(make(family).folder), name],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in tmp_path.glob("equal *")} == {"equal 0", "equal 1"}
