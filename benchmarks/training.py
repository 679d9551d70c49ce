"""How long a step of a training takes with 1 process of 1 thread, 1 of 2 threads, and 2 of 1 thread each.

python benchmarks/training.py [--rounds 3] [--steps 12]

Trains two layers of the shape of `digits` on its pictures. The three take turns in each round, and a round's ratio is
that of the medians of their steps; the first steps of each are left out.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

from compress.__main__ import SPINS
from compress.recipe.shipped import located
from compress.training.processes import train_together
from compress.training.recipe import train
from compress.training.transformer import TrainRecipe

WARM = 3  # steps
LAYERS = 2
WAYS = {"1 process x 1 thread": (1, 1), "1 process x 2 threads": (1, 2), "2 processes x 1 thread": (2, 1)}


def step_seconds(recipe: TrainRecipe, processes: int, threads: int) -> float:
    """The median time of a step behind the first ones."""
    ends: list[float] = []
    own = replace(recipe, train=replace(recipe.train, threads=threads))
    with tempfile.TemporaryDirectory() as folder:
        train_together(
            partial(train, own, Path(folder)), processes, lambda *progress: ends.append(time.perf_counter()), print
        )
    return median(later - earlier for earlier, later in zip(ends[WARM:], ends[WARM + 1 :], strict=False))


def main() -> None:
    """Print seconds of each way and round, and ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    given = parser.parse_args()
    os.environ.setdefault(*SPINS)  # as the command has it; the processes that train read it when they start
    recipe = TrainRecipe.load(located("train-digits"))
    recipe = replace(recipe, model=replace(recipe.model, layers=LAYERS))
    recipe = replace(recipe, train=replace(recipe.train, steps=given.steps, validate_every=given.steps))
    print(f"batch {recipe.train.batch}, {given.steps} steps, {given.rounds} rounds")
    rounds = [{name: step_seconds(recipe, *numbers) for name, numbers in WAYS.items()} for _ in range(given.rounds)]
    one = next(iter(WAYS))
    for name in WAYS:
        ratios = sorted(each[one] / each[name] for each in rounds)
        seconds = ", ".join(f"{each[name]:.3f}" for each in rounds)
        print(f"{name}: {seconds} s a step; {median(ratios):.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f}) as fast")


if __name__ == "__main__":
    main()
