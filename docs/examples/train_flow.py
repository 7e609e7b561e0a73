"""Trains a small text-to-image model on stored embeddings. Killed, or on another number of processes: run it again.

    python docs/examples/train_flow.py EMBEDDINGS --checkpoint run.pt
    torchrun --nproc-per-node 2 docs/examples/train_flow.py EMBEDDINGS --checkpoint run.pt

docs/train.md says what is done here, and why.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from flow import FlowModel
from shapes import SIDE, draw_images
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from t5enc import EmbeddingDataset, EmbeddingLoader, Embeddings, EmbeddingSampler, TextEncoder
from t5enc.dataset import Batch, Draw

# A step takes this many batches, however many processes share them, so that the model does not depend on their number.
BATCHES_A_STEP, BATCH_SIZE = 2, 32
# Times are shifted towards noise (Esser et al. 2024, section 5.3.2): there a model has to read the caption.
SHIFT = 8
Embed = Callable[[Batch], tuple[Tensor, Tensor]]


def train(options: argparse.Namespace) -> list[float]:
    """The loss of each step since the first, whichever run has made it."""
    rank, world = join_processes()
    data = EmbeddingDataset(options.embeddings, columns=["id", "caption"])
    sampler = EmbeddingSampler(data, seed=options.seed, batch_size=BATCH_SIZE, dropout=options.dropout, drop_last=True)
    loader = EmbeddingLoader(data, sampler)
    embed, images = choose_embed(data, options.on_the_fly), draw_images()

    parts = build_parts(options, data.dim) | {"loader": loader}
    losses = restore(options.checkpoint, parts)
    model = DistributedDataParallel(parts["model"]) if world > 1 else parts["model"]

    def find_loss(epoch: int, batch: Batch) -> Tensor:
        noise, time = draw_noise(options.seed, epoch, batch.columns["id"])
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            return flow_loss(model, images[batch.columns["id"]], *embed(batch), noise, time)

    batches = repeat_epochs(loader)
    while len(losses) < options.steps:
        mine = (find_loss(*next(batches)) for _ in range(BATCHES_A_STEP // world))
        losses.append(take_step(parts, mine, world))
        if rank == 0 and (len(losses) % options.save_every == 0 or len(losses) == options.steps):
            save(options.checkpoint, parts, losses)
            print(f"step {len(losses)} loss {np.mean(losses[-options.save_every :]):.4f}", flush=True)
    if rank == 0:
        for name, dropped in (("captions", False), ("no captions", True)):
            found = evaluate(parts["model"], data, embed, images, dropped=dropped)
            print(f"loss with {name} {found:.4f}", flush=True)
    return losses


def build_parts(options: argparse.Namespace, text_dim: int) -> dict[str, Any]:
    """The model as it is before the first step, and what trains it: one-cycle, up for a tenth of the steps."""
    torch.manual_seed(options.seed)
    model = FlowModel(side=SIDE, text_dim=text_dim)
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=options.steps + 1, pct_start=0.1)
    return {"model": model, "optimizer": optimizer, "schedule": schedule}


def take_step(parts: dict[str, Any], losses: Iterable[Tensor], world: int) -> float:
    """One step down the mean of all processes' losses, which is returned; those of this process are given."""
    total = torch.zeros(())
    for loss in losses:
        (loss * world / BATCHES_A_STEP).backward()
        total += loss.detach() / BATCHES_A_STEP
    parts["optimizer"].step()
    parts["optimizer"].zero_grad()
    parts["schedule"].step()
    return sum_over_processes(total)


def join_processes() -> tuple[int, int]:
    """This process' rank, and how many there are: torchrun has said it, or there is one."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if BATCHES_A_STEP % world:
        raise SystemExit(f"expected a number of processes that divides {BATCHES_A_STEP}, got {world}")
    if world > 1:
        dist.init_process_group("gloo")
    return int(os.environ.get("RANK", "0")), world


def repeat_epochs(loader: EmbeddingLoader) -> Iterator[tuple[int, Batch]]:
    """Batches without end, each with its epoch, from where the loader stands."""
    while True:
        for batch in loader:
            yield loader.epoch, batch


def choose_embed(data: EmbeddingDataset, model: str | None) -> Embed:
    """What gives a batch's text (B, S, M) and mask (B, S): what is stored, or its captions encoded by `model` now."""
    if model is None:
        return lambda batch: (batch.embeddings.float(), batch.mask)
    recipe = data.conditioning.recipe
    encoder = TextEncoder.from_pretrained(model, recipe=recipe.name)

    def encode(batch: Batch) -> tuple[Tensor, Tensor]:
        found = encoder.encode(batch.columns["caption"])
        null = encoder.conditioning.null
        rows = [null if dropped else row for row, dropped in zip(found, batch.dropped.tolist(), strict=True)]
        return Embeddings.from_lengths(torch.cat(rows), [len(row) for row in rows]).to_padded()

    return encode


def draw_noise(seed: int, epoch: int, ids: list[int]) -> tuple[Tensor, Tensor]:
    """Noise (B, 3, 16, 16) and times (B,), by the picture and not by its place: any company gives the same."""
    draws = [np.random.default_rng((seed, epoch, picture)) for picture in ids]
    noise = np.stack([draw.standard_normal((3, SIDE, SIDE), np.float32) for draw in draws])
    time = torch.tensor([draw.random() for draw in draws])
    return torch.from_numpy(noise), SHIFT * time / (1 + (SHIFT - 1) * time)


def flow_loss(model: nn.Module, images: Tensor, text: Tensor, mask: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """How far the model's velocity is from that of a straight way between pictures and noise: mean square."""
    part = time[:, None, None, None]
    velocity = model((1 - part) * images + part * noise, time, text, mask)
    return nn.functional.mse_loss(velocity, noise - images)


def sum_over_processes(value: Tensor) -> float:
    """The sum of what each process has."""
    if dist.is_initialized():
        dist.all_reduce(value)
    return value.item()


@torch.no_grad()
def evaluate(model: nn.Module, data: EmbeddingDataset, embed: Embed, images: Tensor, *, dropped: bool) -> float:
    """The loss over all pictures with noise that no epoch has, each with its caption or with none."""
    losses = []
    for start in range(0, len(data), BATCH_SIZE):
        batch = data.__getitems__([Draw(row, dropped) for row in range(start, min(start + BATCH_SIZE, len(data)))])
        noise, time = draw_noise(0, 1_000_000, batch.columns["id"])
        losses.append(flow_loss(model, images[batch.columns["id"]], *embed(batch), noise, time))
    return float(torch.stack(losses).mean())


def save(path: Path, parts: dict[str, Any], losses: list[float]) -> None:
    """All that a run goes on from, as one file that is there wholly or not at all."""
    unfinished = path.with_suffix(".tmp")
    torch.save({"losses": losses} | {name: part.state_dict() for name, part in parts.items()}, unfinished)
    unfinished.replace(path)


def restore(path: Path, parts: dict[str, Any]) -> list[float]:
    """Put every part where the checkpoint has it; the losses so far, none where there is no checkpoint yet."""
    if not path.exists():
        return []
    found = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(found[name])
    losses: list[float] = found["losses"]
    return losses


def read_options() -> argparse.Namespace:
    """What is said on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embeddings", help="what `t5enc encode` has written")
    parser.add_argument("--checkpoint", type=Path, default=Path("run.pt"))
    parser.add_argument("--save-every", type=int, default=20, metavar="STEPS")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dropout", type=float, default=0.1, help="how many captions are left out; 1 is all")
    parser.add_argument("--bf16", action="store_true", help="compute products in bfloat16, weights stay float32")
    parser.add_argument("--on-the-fly", metavar="MODEL", help="encode captions while training, and read none")
    parser.add_argument("--curve", type=Path, help="write the losses here, as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    options = read_options()
    losses = train(options)
    if options.curve:
        options.curve.write_text(json.dumps([round(loss, 6) for loss in losses]))
    if dist.is_initialized():
        dist.destroy_process_group()
