"""Several processes that train together, made in a moment: copies of this one, as it is."""

from __future__ import annotations

import multiprocessing
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from compress.training.world import World, join

WAIT_S = 60


def on_ranks(work: Callable[[World], Any], folder: Path, size: int = 2) -> list[Any]:
    """What `work` gives in each of `size` processes, in order.

    They are forked, so they need not load PyTorch; that is sound while it has one thread.
    """
    context = multiprocessing.get_context("fork")
    meeting = folder / f"meeting-{len(list(folder.glob('meeting-*')))}"
    pipes = [context.Pipe(duplex=False) for _ in range(size)]

    def one(rank: int) -> None:
        try:
            with join(rank, size, rank, f"file://{meeting}") as world:
                said = (work(world), "")
        except BaseException:
            said = (None, traceback.format_exc())
        pipes[rank][1].send_bytes(pickle.dumps(said))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    processes = [context.Process(target=one, args=(rank,), daemon=True) for rank in range(size)]
    try:
        for process in processes:
            process.start()
        found = []
        for rank in range(size):
            assert pipes[rank][0].poll(WAIT_S), f"process {rank} says nothing"
            value, fault = pickle.loads(pipes[rank][0].recv_bytes())
            assert not fault, f"process {rank}: {fault}"
            found.append(value)
        return found
    finally:
        torch.set_num_threads(threads)
        for process in processes:
            process.kill()
            process.join()
