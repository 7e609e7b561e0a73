"""transformers' Trainer reads an output in the sampler's order, and goes on from its checkpoint with the next batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from t5enc import EmbeddingDataset, EmbeddingLoader, EmbeddingSampler
from tests.t5enc.dataset.outputs import Shard, write_output

transformers = pytest.importorskip("transformers", reason="needs transformers")
pytest.importorskip("accelerate", reason="needs accelerate")
pytestmark = pytest.mark.filterwarnings("ignore")


def name_parts(batch: Any) -> dict[str, Any]:
    """A batch as a dictionary, which is what the Trainer takes."""
    return {"embeddings": batch.embeddings, "ids": batch.columns["id"]}


class Watching(nn.Module):
    """A model that notes which rows it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[list[int]] = []

    def forward(self, batch: Any) -> torch.Tensor:
        self.seen.append(batch["ids"])
        return (self.weight * batch["embeddings"].float().mean()).square().sum()


class Trainer(transformers.Trainer):  # type: ignore[misc]
    """With a loader of its own, as the Trainer's documentation has it."""

    def __init__(self, data: Any, loader: Any, folder: Path, **options: Any) -> None:
        options |= {"output_dir": str(folder), "max_steps": 6, "save_steps": 3, "report_to": [], "use_cpu": True}
        arguments = transformers.TrainingArguments(disable_tqdm=True, **options)
        super().__init__(model=Watching(), args=arguments, train_dataset=data)
        self.loader = loader

    def get_train_dataloader(self) -> Any:
        return self.loader

    def compute_loss(self, model: Any, inputs: Any, **_: Any) -> Any:
        return model(inputs)


@pytest.fixture
def data(tmp_path: Path) -> EmbeddingDataset:
    write_output(tmp_path / "out", [Shard(lengths=[3, 1, 4, 1, 5, 9, 2, 6])])
    return EmbeddingDataset(tmp_path / "out", columns=["id"])


def list_expected(data: EmbeddingDataset) -> list[list[int]]:
    """The identifiers of the batches of an epoch and a half."""
    sampler = EmbeddingSampler(data, batch_size=2)
    return [data.__getitems__(rows).columns["id"] for rows in [*iter(sampler), *iter(sampler)][:6]]


def test_the_trainer_goes_on_with_torchs_loader_by_skipping_batches(data: EmbeddingDataset, tmp_path: Path) -> None:
    def train(checkpoint: Any = None) -> list[list[int]]:
        sampler = EmbeddingSampler(data, batch_size=2)
        loader = DataLoader(data, batch_sampler=sampler, collate_fn=name_parts)  # type: ignore[arg-type]
        trainer = Trainer(data, loader, tmp_path / "run")
        trainer.train(resume_from_checkpoint=checkpoint)
        return list(trainer.model.seen)

    assert train() == list_expected(data)
    assert train(str(tmp_path / "run" / "checkpoint-3")) == list_expected(data)[3:]


def test_the_trainer_goes_on_with_our_loader_by_its_state(data: EmbeddingDataset, tmp_path: Path) -> None:
    states = []

    class Noting(transformers.TrainerCallback):  # type: ignore[misc]
        def on_save(self, *_: Any, **__: Any) -> None:
            states.append(loader.state_dict())

    loader = EmbeddingLoader(data, EmbeddingSampler(data, batch_size=2), collate=name_parts)
    trainer = Trainer(data, loader, tmp_path / "run")
    trainer.add_callback(Noting())
    trainer.train()
    assert trainer.model.seen == list_expected(data)
    loader.load_state_dict(states[0])
    resumed = Trainer(data, loader, tmp_path / "run", ignore_data_skip=True)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert resumed.model.seen == list_expected(data)[3:]
