"""How drawing grows with workers: `python benchmarks/scale.py ENGINE --json scale.json`.

Two single-thread workers against one, as processes and on a Ray cluster of this machine, and what handing out tasks of
100 ms costs. Crews stay warm and take turns, so that other work on the machine hits all of them. On a machine without
a free processor two workers get no more of it than one, so processor time is measured too. What is measured is
what `benchmarks/scale_simulation.py` computes with.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from compress.bulk.drawing import Cargo, Drawing, Opening, Shard
from compress.bulk.generate import Wish, planned
from compress.bulk.shards import publish
from compress.workers.crew import Crew, Done, Failed, Say, Task, Worker, unheard
from compress.workers.place import Place, opened
from compress.workers.pool import mapped
from compress.workers.versions import versions

SLEEP_S = 0.1
NICENESS = {"RAY_worker_niceness": "0"}  # Ray's is 15: beside other work its workers would get next to no processor
TARGETS = {"ratio": 1.8, "overhead": 0.05}


class Kept:
    """A crew whose workers stay between jobs, so that none is timed while it starts."""

    def __init__(self, crew: Crew, size: int) -> None:
        self.crew, self.size = crew, size
        self.resting: list[Worker] = []

    def start(self) -> Worker:
        """A worker that rests, or a new one."""
        return KeptWorker(self, self.resting.pop() if self.resting else None)

    def ready(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        """Those that rested are ready at once."""
        kept = [worker for worker in workers if isinstance(worker, KeptWorker)]
        if rested := [worker for worker in kept if worker.rested]:
            return rested
        behind = {id(worker.worker): worker for worker in kept}
        return [behind[id(each)] for each in self.crew.ready([worker.worker for worker in kept])]


class KeptWorker:
    """One of its workers."""

    def __init__(self, crew: Kept, worker: Worker | None) -> None:
        self.crew, self.rested = crew, worker is not None
        self.worker = worker or crew.crew.start()
        self.name = self.worker.name

    def send(self, argument: Any) -> None:
        """As of the worker."""
        self.worker.send(argument)

    def reply(self) -> Done | Failed:
        """As of the worker; one that rested has said already what it is."""
        if self.rested:
            self.rested = False
            return Done(versions())
        return self.worker.reply()

    def stop(self) -> None:
        """Rest."""
        self.crew.resting.append(self.worker)


@dataclass(frozen=True)
class Timed:
    """Makes a function that also says how long it took, and how much of a processor: `make`'s, or one that sleeps."""

    make: Callable[[Say], Callable[[Any], Any]] | None = None

    def __call__(self, say: Say) -> Callable[[Any], tuple[float, float, Any]]:
        """As a worker begins."""
        function = time.sleep if self.make is None else self.make(unheard)

        def timed(argument: Any) -> tuple[float, float, Any]:
            began, worked = time.monotonic(), time.process_time()
            made = function(argument)
            return time.monotonic() - began, time.process_time() - worked, made

        return timed


@dataclass(frozen=True)
class Row:
    """A job of a crew: its seconds, those of its tasks, processor time of workers and of this process, the results."""

    crew: str
    seconds: float
    inside: list[float]
    workers_s: float
    driver_s: float
    made: str


def done(name: str, crew: Crew, tasks: Sequence[Task]) -> Row:
    """Do a job."""
    began, own = time.monotonic(), time.process_time()
    inside, worked, made = [], 0.0, {}
    for outcome in mapped(crew, tasks):
        assert not outcome.fault, outcome.fault
        seconds, processor_s, content = outcome.value
        inside.append(seconds)
        worked += processor_s
        made[outcome.task.name] = hashlib.sha256(content or b"").hexdigest()
    content = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
    return Row(name, time.monotonic() - began, inside, worked, time.process_time() - own, content)


def interleaved(crews: dict[str, Crew], tasks: Sequence[Task], rounds: int) -> Iterator[Row]:
    """A row for each crew and round; the first round, in which workers start, is left out."""
    for number in range(rounds + 1):
        for name, crew in crews.items():
            row = done(name, crew, tasks)
            if number:
                yield row


def drawing(engine: Path, pictures: int, shard: int, rounds: int, places: dict[str, Place]) -> dict[str, Any]:
    """Pictures a second of one worker and of two, at each place."""
    wish = Wish(np.arange(10, dtype=np.int64), count=pictures, shard=shard, batch=shard)
    job, conditions = planned(engine, wish, Opening())
    tasks = [Task(job.name(number), Shard.of(job, conditions, number)) for number in range(job.shards)]
    with ExitStack() as stack:
        crews: dict[str, Crew] = {}
        for name, place in places.items():
            source = engine.absolute() if place.is_local else Cargo.of(engine)
            crew = stack.enter_context(opened(place, Timed(Drawing(job, Opening(), source))))
            crews |= {f"{name} {size}": Kept(crew, size) for size in (1, 2)}
        rows = list(interleaved(crews, tasks, rounds))
        content = Drawing(job, Opening(), engine.absolute())(lambda text: None)(tasks[0].argument)
        for crew in crews.values():
            for worker in crew.resting:  # type: ignore[attr-defined]
                worker.stop()
    found: dict[str, Any] = {
        "pictures": pictures,
        "shard": shard,
        "same bytes": len({row.made for row in rows}) == 1,
    }
    for name in places:
        one, two = ([row for row in rows if row.crew == f"{name} {size}"] for size in (1, 2))
        ratios = [first.seconds / second.seconds for first, second in zip(one, two, strict=True)]
        # Two processors can do no better than share all work evenly; one worker has one of them to itself.
        most = [2 * a.workers_s / (b.workers_s + b.driver_s) for a, b in zip(one, two, strict=True)]
        found[name] = {
            "pictures/s of 1": pictures / statistics.median(row.seconds for row in one),
            "pictures/s of 2": pictures / statistics.median(row.seconds for row in two),
            "processor ms of a picture": 1000 * statistics.median(row.workers_s for row in one) / pictures,
            "ratio": statistics.median(ratios),
            "ratios": sorted(ratios),
            "processor ratio": statistics.median(most),
            "processor ratios": sorted(most),
        }
    found["shard_s"] = [row.workers_s / len(tasks) for row in rows if row.crew == "local 1"]
    found["shard_bytes"] = len(content)
    found["publish_s"] = published(content)
    return found


def published(content: bytes, times: int = 20) -> list[float]:
    """Seconds that it takes to write a shard, synced."""
    found = []
    with TemporaryDirectory(dir=".") as room:
        for number in range(times):
            began = time.monotonic()
            publish(content, Path(room) / f"{number}.tar")
            found.append(time.monotonic() - began)
    return found


def overhead(places: dict[str, Place], tasks: int, rounds: int) -> dict[str, Any]:
    """Share of time beside tasks of 100 ms, which sleep: on one worker, so that none waits for another."""
    found = {}
    with ExitStack() as stack:
        crews: dict[str, Crew] = {
            name: Kept(stack.enter_context(opened(place, Timed())), 1) for name, place in places.items()
        }
        rows = list(interleaved(crews, [Task(f"{number}", SLEEP_S) for number in range(tasks)], rounds))
        for crew in crews.values():
            for worker in crew.resting:  # type: ignore[attr-defined]
                worker.stop()
    for name in crews:
        shares = [row.seconds / sum(row.inside) - 1 for row in rows if row.crew == name]
        found[name] = {"share": statistics.median(shares), "shares": sorted(shares)}
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("engine", type=Path)
    parser.add_argument("--places", default="local,ray", help="which of local and ray")
    parser.add_argument("--pictures", type=int, default=128)
    parser.add_argument("--shard", type=int, default=8, help="pictures of a shard, which are drawn at once")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=50, help="of 100 ms")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    known = {"local": Place(2), "ray": Place()}
    places = {name: known[name] for name in args.places.split(",")}
    if "ray" in places:
        os.environ |= NICENESS
        import ray

        ray.init("local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    found = {
        "machine": f"{platform.machine()}, {len(places)} kinds of workers in turn",
        "drawing": drawing(args.engine, args.pictures, args.shard, args.rounds, places),
        "overhead": overhead(places, args.tasks, args.rounds),
    }
    print(text(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


def text(found: dict[str, Any]) -> str:
    """What was measured, for people."""
    same = "the same" if found["drawing"]["same bytes"] else "OTHER"
    lines = [f"every crew drew {same} bytes"]
    for name, beside in found["overhead"].items():
        drawn, ratios, shares = found["drawing"][name], found["drawing"][name]["ratios"], beside["shares"]
        most = drawn["processor ratios"]
        lines += [
            f"{name}: 1 worker {drawn['pictures/s of 1']:.1f} pictures/s, 2 workers {drawn['pictures/s of 2']:.1f}, "
            f"ratio {drawn['ratio']:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}; target {TARGETS['ratio']}); "
            f"processor time allows {drawn['processor ratio']:.2f} ({most[0]:.2f} to {most[-1]:.2f}), a picture takes "
            f"{drawn['processor ms of a picture']:.1f} ms of it",
            f"{name}: {beside['share']:.1%} beside tasks of 100 ms ({shares[0]:.1%} to {shares[-1]:.1%}; target "
            f"{TARGETS['overhead']:.0%})",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
