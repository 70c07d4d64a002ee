"""The processes of one run: which this one is, and what they tell each other.

`torchrun` starts as many processes (ranks) as there are devices, and each runs the same command.
Alone, a process is rank 0 of 1, and nothing here costs anything. Whatever decides how a run goes on
(a score, a count of broken clips, a signal) goes through `sum` or `gather`, so that all ranks
decide alike.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from stadapter.device import pick_device


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int
    """Number of this process, from 0."""
    num_ranks: int
    """Processes of the run, on all nodes."""
    device: torch.device
    """What this process computes with."""

    @property
    def is_main(self) -> bool:
        """Whether this is the one process that writes files."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Each value summed over the ranks; every rank must call it at the same place."""
        if self.num_ranks == 1:
            return list(values)
        together = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(together)
        return together.tolist()

    def any(self, happened: bool) -> bool:
        """Whether it happened on any rank; every rank must call it at the same place."""
        return self.sum(happened)[0] > 0

    def gather(self, thing: Any) -> list[Any]:
        """The thing of each rank, by rank; every rank must call it at the same place."""
        if self.num_ranks == 1:
            return [thing]
        things: list[Any] = [None] * self.num_ranks
        dist.all_gather_object(things, thing)
        return things

    def wait(self) -> None:
        """Until every rank has come here."""
        self.sum(0)


def join_ranks(device: str) -> Ranks:
    """Find the other processes that `torchrun` started, if it did.

    Args:
        device: auto, cpu, cuda, mps; of several processes each takes the GPU of its local rank.

    Raises:
        ValueError: no such device, or one that several processes cannot share.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Ranks(0, 1, pick_device(device))
    kind = pick_device(device)
    if kind.type not in ("cpu", "cuda") or kind.index is not None:
        raise ValueError(
            f"device {device!r} cannot be shared by the processes of torchrun; use auto, cuda or "
            "cpu"
        )
    from accelerate import PartialState

    state = PartialState(cpu=kind.type == "cpu")
    own = torch.device(state.device.type, state.device.index) if kind.type == "cuda" else kind
    return Ranks(state.process_index, state.num_processes, own)
