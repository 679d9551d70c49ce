"""Several processes that train together, made in a moment: copies of this one, as it is."""

from __future__ import annotations

import multiprocessing
import pickle
import time
import traceback
from collections.abc import Callable
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch

from compress.training.world import World, join

WAIT_S = 900  # of live processes, which take turns: beside other load each turn may take a second


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
        until = time.monotonic() + WAIT_S
        said = [word_of(process, pipes[rank][0], until) for rank, process in enumerate(processes)]
        faults = "".join(f"process {rank}: {fault}\n" for rank, (_, fault) in enumerate(said) if fault)
        assert not faults, faults  # of all: one that is lost is the consequence of another one's fault
        return [value for value, _ in said]
    finally:
        torch.set_num_threads(threads)
        for process in processes:
            process.kill()
            process.join()


def word_of(process: Any, pipe: Any, until: float) -> tuple[Any, str]:
    """What a process gave, and its fault, as soon as it says so or is gone."""
    while not pipe.poll():
        if process.exitcode is not None and not pipe.poll():
            return None, f"ended with exit code {process.exitcode}"
        if time.monotonic() > until:
            return None, "says nothing"
        connection.wait([pipe, process.sentinel], timeout=1.0)
    value, fault = pickle.loads(pipe.recv_bytes())
    return value, fault
