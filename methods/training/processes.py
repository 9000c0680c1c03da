"""The processes that train together."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from l2rfast.errors import InputError


@dataclass(frozen=True)
class World:
    """The processes that train together, and this one among them."""

    rank: int
    size: int
    device: torch.device

    def means(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Over the processes."""
        stacked = torch.stack([value.detach().double() for value in values.values()])
        if self.size > 1:
            dist.all_reduce(stacked)
        return dict(zip(values, (stacked / self.size).tolist(), strict=True))

    def from_first(self, make: Callable[[], Any]) -> Any:
        """What the first process makes, or the error that it raises, for all."""
        result: list[Any] = [None]
        if self.rank == 0:
            try:
                result = [make()]
            except InputError as error:
                result = [error]
        if self.size > 1:
            dist.broadcast_object_list(result)
        if isinstance(result[0], InputError):
            raise result[0]
        return result[0]

    def gathered(self, own: list[Any]) -> list[Any]:
        """The lists of all processes, one after another."""
        if self.size == 1:
            return own
        lists: list[Any] = [None] * self.size
        dist.all_gather_object(lists, own)
        return [item for some in lists for item in some]


@contextmanager
def world(device: torch.device, out: str | os.PathLike[str]) -> Iterator[World]:
    """The processes that ``torchrun`` started, or this one alone.

    Raises:
        InputError: another one has ended, or does not answer, while they train for a run in that folder.
    """
    rank, size = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", device.index or 0)))
        torch.cuda.set_device(device)
    if size == 1:
        yield World(0, 1, device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(rank, size, device)
        dist.barrier()
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo/" in str(error)):
            raise
        lost = "another process that trains does not answer or has ended, as what it says may tell"
        raise InputError(f"{lost}; --resume goes on from the last checkpoint in {out}") from error
    finally:
        gc.collect()  # DistributedDataParallel is in a cycle, and not to outlive the group that it holds
        dist.destroy_process_group()
