"""Drawing with 10, 100 and 1,000 workers, simulated: `python benchmarks/scale_simulation.py scale.json`.

Discrete events (SimPy) of `compress.workers.pool` and `compress.bulk.generate`: workers, and the one process that hands
out shards, takes their bytes and writes them. Times of that process are those that `benchmarks/scale.py` measured; the
shard's time and bytes are a scenario's. Assumed are the network, the share of stragglers and how often a worker dies.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import simpy

WORKERS = (1, 10, 100, 1000)
NETWORK = 1.25e9  # bytes a second into the driver: 10 Gbit/s


@dataclass(frozen=True)
class Scene:
    """A job, and what happens to it; times in seconds."""

    shards: int
    shard_s: float  # that a worker draws
    spread: float = 0.0  # standard deviation of the logarithm of that
    slow: float = 0.0  # share of shards on a worker that is busy with something else
    slowness: float = 1.0  # how many times as long those take
    death_s: float = float("inf")  # between two deaths of a worker, on average
    start_s: float = 0.0  # that a worker takes to be ready
    receive_s: float = 0.0  # that the driver takes for a shard's bytes
    hand_out_s: float = 0.0  # and for the next task
    publish_s: float = 0.0  # and to write a shard, while workers draw


@dataclass(frozen=True)
class Result:
    """What came of it."""

    seconds: float
    busy: float  # share of that time that the driver worked
    again: int  # shards that were begun again because their worker died


class Simulation:
    """One job on so many workers."""

    def __init__(self, scene: Scene, workers: int, seed: int) -> None:
        self.scene, self.random = scene, random.Random(seed)
        self.environment = simpy.Environment()
        self.driver = simpy.Resource(self.environment)
        self.waiting, self.busy, self.again = scene.shards, 0.0, 0
        for _ in range(min(workers, scene.shards)):
            self.environment.process(self.worker())

    def result(self) -> Result:
        """Let it end."""
        self.environment.run()
        seconds = self.environment.now
        return Result(seconds, self.busy / seconds, self.again)

    def worker(self) -> Iterator[Any]:
        """A worker: start, then shard after shard; where it dies, another begins in its place with the same shard."""
        yield self.environment.timeout(self.scene.start_s)
        yield from self.driven(self.scene.hand_out_s)
        while self.waiting:
            self.waiting -= 1
            takes, lives = self.drawing_s(), self.random.expovariate(1) * self.scene.death_s
            if lives < takes:
                self.again += 1
                self.waiting += 1
                yield self.environment.timeout(lives + self.scene.start_s)
                yield from self.driven(self.scene.hand_out_s)
                continue
            yield self.environment.timeout(takes)
            yield from self.driven(self.scene.receive_s + self.scene.hand_out_s)
            self.environment.process(self.driven(self.scene.publish_s))

    def driven(self, seconds: float) -> Iterator[Any]:
        """Something that the driver does, when it has time."""
        with self.driver.request() as turn:
            yield turn
            yield self.environment.timeout(seconds)
            self.busy += seconds

    def drawing_s(self) -> float:
        """That a shard takes; stragglers are slower."""
        usual = self.scene.shard_s * self.random.lognormvariate(0, self.scene.spread)
        return usual * (self.scene.slowness if self.random.random() < self.scene.slow else 1)


def scenes(found: dict[str, Any]) -> dict[str, Scene]:
    """What is simulated: a million small pictures with the engine that was measured, and a million of 256x256."""
    drawn = found["drawing"]
    seconds = statistics.median(drawn["shard_s"]) / drawn["shard"]
    bytes_of_one = drawn["shard_bytes"] / drawn["shard"]
    hand_out = statistics.median(found["overhead"]["local"]["shares"]) * 0.1
    usual = Scene(
        shards=977, shard_s=1024 * seconds, spread=0.1, slow=0.01, slowness=4, death_s=24 * 3600, start_s=2,
        receive_s=1024 * bytes_of_one / NETWORK, hand_out_s=hand_out, publish_s=statistics.median(drawn["publish_s"]),
    )  # fmt: skip
    large = replace(
        usual, shard_s=1024 * LARGE_S, receive_s=1024 * LARGE_BYTES / NETWORK, publish_s=1024 * LARGE_BYTES / DISK
    )
    finer = replace(large, shards=15_625, shard_s=large.shard_s / 16, receive_s=large.receive_s / 16,
                    publish_s=large.publish_s / 16)  # fmt: skip
    return {
        "small pictures, shards of 1,024": usual,
        "256x256, shards of 1,024": large,
        "256x256, shards of 64": finer,
        "256x256, shards of 64, no accidents": replace(finer, spread=0.0, slow=0.0, death_s=float("inf")),
    }


LARGE_S = 1.38  # benchmarks/RESULTS.md: a picture of LlamaGen-B's shape with its decoder, on 2 cores
LARGE_BYTES = 1e5  # of such a PNG, assumed
DISK = 5e8  # bytes a second that the driver writes, assumed


def main() -> None:
    """A line for each scene and number of workers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("measured", type=Path)
    found = json.loads(parser.parse_args().measured.read_text())
    print("| Job | Workers | Time, h | Of the ideal | Driver busy | Shards begun again |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, scene in scenes(found).items():
        for workers in WORKERS:
            made = Simulation(scene, workers, seed=0).result()
            ideal = scene.shards * scene.shard_s / workers
            print(
                f"| {name} | {workers} | {made.seconds / 3600:.3g} | {100 * ideal / made.seconds:.0f} % | "
                f"{100 * made.busy:.1f} % | {made.again} |"
            )


if __name__ == "__main__":
    main()
