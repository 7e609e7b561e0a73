"""Which of how many processes this is: as torch.distributed says, or the environment that torchrun sets."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch.distributed

from t5enc.errors import ConfigError


def find_rank(rank: int | None = None, world_size: int | None = None) -> tuple[int, int]:
    """Rank and world size: those given, else torch.distributed's, else `RANK` and `WORLD_SIZE`, else one process.

    ConfigError where one is given without the other, or they do not fit each other.
    """
    if (rank is None) != (world_size is None):
        raise ConfigError(f"rank and world_size: expected both or neither, got {rank} and {world_size}")
    if rank is not None and world_size is not None:
        return check_rank(rank, world_size, "rank and world_size")
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return read_environment(os.environ)


def read_environment(environment: Mapping[str, str]) -> tuple[int, int]:
    """Rank and world size as torchrun sets them; (0, 1) where it sets neither."""
    rank, world_size = environment.get("RANK"), environment.get("WORLD_SIZE")
    if rank is None and world_size is None:
        return 0, 1
    try:
        found = int(rank or ""), int(world_size or "")
    except ValueError:
        raise ConfigError(
            f"RANK and WORLD_SIZE: expected whole numbers in both or neither, got {rank!r} and {world_size!r}"
        ) from None
    return check_rank(*found, "RANK and WORLD_SIZE")


def check_rank(rank: int, world_size: int, where: str) -> tuple[int, int]:
    """Both, if they fit each other; ConfigError otherwise."""
    if not 0 <= rank < world_size:
        raise ConfigError(f"{where}: expected a rank from 0 to the world size - 1, got {rank} of {world_size}")
    return rank, world_size
