"""The batches of a training run: one sequence by (seed, epoch), dealt to however many ranks there are.

Each step takes the next batches of the sequence, one a rank. So a run can be stopped after any step and go on with
another number of ranks: what it has seen is the beginning of the sequence, and what is left is the rest of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from t5enc.dataset.draws import Draw
from t5enc.dataset.sampling.batches import BatchOptions, Place
from t5enc.dataset.sampling.captions import Weights
from t5enc.dataset.sampling.epoch import DrawOptions, Epoch, Measured, OrderName, open_samples
from t5enc.dataset.sampling.ranks import find_rank
from t5enc.dataset.sampling.states import read_state, write_state
from t5enc.errors import ConfigError


class EmbeddingSampler:
    """Batches of row numbers for one rank, as a *batch sampler* of torch's `DataLoader` or for `EmbeddingLoader`.

    Each row comes exactly once an epoch, in an order that is a function of `seed` and the epoch: not of the number of
    ranks or workers, nor of where a run was stopped.

    `batch_size` rows a batch, or at most `batch_tokens` padded tokens (rows times the longest of them; a longer row is
    a batch of its own). `bucket_rows` of the order at a time are sorted by length into batches, which are mixed.
    `order`: "rows" mixes all rows; "row_groups" mixes whole row groups, and the rows of each `group_window` of them
    together; "sequential" leaves them as they lie.

    `group_by`: "row" for the captions of one row of the input, or a column with one value a sample: one row of each
    sample is drawn an epoch, evenly or by `weights`: a mapping or sequence by caption index, or the name of a column.
    With a `dropout` of more than 0, batches hold `Draw`s, of which so many say that their caption is dropped.

    With `drop_last` a batch of fewer rows and a step that has not a batch for each rank are left out; without, a rank
    that has none gets an empty list: all ranks make the same number of steps.

    Rank and world size, where they are not given, are those of torch.distributed, of torchrun's environment, or one
    process. ConfigError for options that do not fit together.
    """

    def __init__(
        self,
        data: Measured,
        *,
        seed: int = 0,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        bucket_rows: int | None = None,
        order: OrderName = "rows",
        group_window: int = 16,
        group_by: str | None = None,
        weights: Weights = None,
        dropout: float = 0.0,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self._cut = BatchOptions(
            batch_size=batch_size, batch_tokens=batch_tokens, bucket_rows=bucket_rows, drop_last=drop_last
        )
        self._draws = DrawOptions(
            seed=seed, order=order, group_window=group_window, group_by=group_by, weights=weights, dropout=dropout
        )
        if rank is not None or world_size is not None:
            find_rank(rank, world_size)
        self._rank = rank, world_size
        self._data = data
        self._samples = open_samples(data, self._draws)
        self._options = self._list_options()
        self._epoch, self._place = self._open(0), Place()
        # Whether somebody has said where the next iteration is to begin, which then may have nothing left.
        self._is_set = True
        self._moves = 0

    @property
    def moves(self) -> int:
        """How often it was sent to another epoch or state, by which a loader knows that it was."""
        return self._moves

    @property
    def epoch(self) -> int:
        """The epoch that is being read, or that comes next."""
        return self._epoch.number

    @property
    def batch_size(self) -> int | None:
        """Rows of a batch; None where batches are cut by tokens."""
        return self._cut.batch_size

    @property
    def drop_last(self) -> bool:
        """Whether what does not fill a batch or a step is left out."""
        return self._cut.drop_last

    @property
    def is_over(self) -> bool:
        """Whether no step is left of the epoch."""
        return not self._has_step(find_rank(*self._rank)[1])

    def __len__(self) -> int:
        """This rank's steps in a whole epoch. By tokens, all lengths are looked at to count them."""
        world_size = find_rank(*self._rank)[1]
        batches = self._epoch.batches.count()
        return batches // world_size if self.drop_last else -(-batches // world_size)

    def __iter__(self) -> Iterator[list[int] | list[Draw]]:
        """This rank's batches from where the epoch stands to its end; then the next epoch is begun.

        So it is where all steps of an epoch were taken, but not the end of the iteration, as loops that count do.
        """
        rank, world_size = find_rank(*self._rank)
        if not self._is_set and not self._has_step(world_size):
            self._begin(self.epoch + 1)
        self._is_set, epoch = False, self._epoch
        while self._epoch is epoch and self._has_step(world_size):
            mine = epoch.batches.skip(self._place, rank)
            batch = epoch.draw(epoch.batches.take(mine))
            self._place = epoch.batches.skip(self._place, world_size)
            yield batch
        if self._epoch is epoch:
            self._begin(epoch.number + 1)

    def set_epoch(self, epoch: int) -> None:
        """Begin this epoch; one that is being read goes on where it stands. ConfigError for one below 0."""
        if epoch < 0:
            raise ConfigError(f"epoch: expected a whole number of at least 0, got {epoch}")
        if epoch != self.epoch:
            self._begin(epoch)
            self._moves += 1
        self._is_set = True

    def state_dict(self) -> dict[str, Any]:
        """Where the whole world stands after the last batch: the same on all ranks, less than 200 bytes of JSON."""
        return write_state(self._draws.seed, self.epoch, self._place, len(self._data), self._options)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a sampler of the same data and options stood, whatever its world size was.

        ConfigError for a state of other rows, of another seed, or of other options, which are named.
        """
        epoch, place = read_state(state, self._draws.seed, len(self._data), self._options)
        self._epoch, self._place = self._epoch if epoch == self.epoch else self._open(epoch), place
        self._is_set = True
        self._moves += 1

    def _begin(self, epoch: int) -> None:
        self._epoch, self._place, self._is_set = self._open(epoch), Place(), True

    def _open(self, number: int) -> Epoch:
        return Epoch(self._data, self._samples, number, self._draws, self._cut)

    def _has_step(self, world_size: int) -> bool:
        batches = self._epoch.batches
        needed = batches.skip(self._place, world_size - 1) if self.drop_last else self._place
        return needed < batches.end

    def _list_options(self) -> dict[str, Any]:
        """All that the sequence of batches depends on but the seed."""
        data = {"data": getattr(self._data, "numbering", None), "row_groups": self._samples.digest()}
        return asdict(self._cut) | self._draws.list_values() | data | {"lengths": self._list_lengths()}

    def _list_lengths(self) -> dict[str, Any] | None:
        """What tells which tokens batches are cut by; None where they are cut by none."""
        if self._cut.batch_tokens is None and self._cut.bucket_rows is None:
            return None
        names = ("pad_to", "max_lengths", *(("null_tokens",) if self._draws.dropout else ()))
        return {name: getattr(self._data, name, None) for name in names}
