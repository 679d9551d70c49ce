"""The processes that train together: which one this is, its rows of every batch, and what all of them agree on.

All of them draw the same random numbers for the whole batch, and each computes its own rows. So nothing that is random
depends on how many they are, and a training goes on with another number of them.

Letters: N processes, B batch.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from compress.core.launched import Launch, LostError, SaidElsewhereError
from compress.core.settings import InputError

T = TypeVar("T")

GONE = "a process of this training is gone; what was finished is kept, and the same command goes on from there"


@dataclass(frozen=True)
class World:
    """The N processes, and the number of this one: among all, and among those of this machine.

    Everything but `rows` and `dealt` is done by all processes at once. A world of one communicates nothing.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process is the one that reports, writes and publishes."""
        return self.rank == 0

    def check(self, count: int, where: str) -> None:
        """Refuse a batch of which each process would not have equally many.

        Raises:
            InputError: where it was asked for, and what would be right.
        """
        if count % self.size:
            raise InputError(
                f"{where}: {count} cannot be shared equally by {self.size} processes; use a multiple of {self.size}"
            )

    def rows(self, count: int) -> slice:
        """The rows of a batch of so many (a multiple of N) that are this process's."""
        own = count // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def dealt(self, things: Sequence[T]) -> Sequence[T]:
        """Every N-th of the things."""
        return things[self.rank :: self.size]

    def total(self, own: Tensor) -> Tensor:
        """The sum of all processes' tensors, which have one shape; the same bits in each process."""
        if self.size > 1:
            own = own.clone()
            dist.all_reduce(own)
        return own

    def sum_of(self, own: float) -> float:
        """The sum of all processes' numbers."""
        return float(self.total(torch.tensor(own, dtype=torch.float64))) if self.size > 1 else own

    def rows_of_all(self, own: NDArray[np.int64]) -> NDArray[np.int64]:
        """All processes' rows, in the order of the processes; each has equally many."""
        if self.size == 1:
            return own
        parts = [torch.empty(own.shape, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(parts, torch.from_numpy(np.ascontiguousarray(own)))
        return torch.cat(parts).numpy()

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, in each of them."""
        if self.size == 1:
            return make()
        held: list[Any] = [make() if self.first else None]
        dist.broadcast_object_list(held, device=torch.device("cpu"))
        made: T = held[0]
        return made

    def alike(self, module: nn.Module) -> None:
        """Give every process the weights and averages of the first: other processors may have drawn other last bits."""
        if self.size > 1:
            for tensor in module.state_dict().values():
                if tensor.is_floating_point() and tensor.element_size() >= 2:  # smaller floats are not trained
                    dist.broadcast(tensor, 0)

    @contextlib.contextmanager
    def agreed(self) -> Iterator[None]:
        """Do what may fail in any process; if it fails anywhere, all end here, and one says why.

        Raises:
            SaidElsewhereError: it failed, and another process says so.
        """
        if self.size == 1:
            yield
            return
        fault: Exception | None = None
        try:
            yield
        except Exception as error:
            fault = error
        failed: list[Any] = [None] * self.size
        dist.all_gather_object(failed, fault is not None)
        if fault is not None and failed.index(True) == self.rank:
            raise fault
        if any(failed):
            raise SaidElsewhereError from fault


ALONE = World()


@contextlib.contextmanager
def join_torchrun(launch: Launch) -> Iterator[World]:
    """The world of the processes that torchrun started.

    PyTorch 2.13 keeps the store of addresses when it starts processes again; those of dead ones must not be read.
    """
    try:
        store, _, _ = next(rendezvous("env://"))
    except RuntimeError as error:
        raise InputError(f"torchrun's processes do not find each other: {error}") from error
    fresh = PrefixStore(str(launch.restarts), store)
    with join(launch.rank, launch.size, launch.local_rank, fresh) as world:
        yield world


@contextlib.contextmanager
def join(rank: int, size: int, local_rank: int, meeting: str | PrefixStore) -> Iterator[World]:
    """A world of processes that find each other at a URL or by a store: gloo for the CPU, NCCL for GPUs.

    Raises:
        LostError: another process ended; raised by the first one that is left.
        SaidElsewhereError: the same in the others.
    """
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        place = {"init_method": meeting} if isinstance(meeting, str) else {"store": meeting}
        dist.init_process_group(backend, rank=rank, world_size=size, **place)
        try:
            yield World(rank, size, local_rank)
        finally:
            gc.collect()  # what still refers to the group would end its threads only while Python ends
            dist.destroy_process_group()
    except (RuntimeError, ValueError) as error:
        if not is_lost(error):
            raise
        if rank:
            raise SaidElsewhereError from error
        raise LostError(GONE) from error


def is_lost(error: BaseException) -> bool:
    """Whether an error says that another process does not answer."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())
