"""How often `bench` claims a change between an engine and its own copy: `python benchmarks/same_engine.py ENGINE`.

Equal engines have a speedup of 1, so every claim is false. With `--load N` as many processes keep the processors busy,
each for a while and then idle for a while, which is what rounds of a timing are least independent under.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import shutil
import tempfile
import time
from pathlib import Path

from scipy.stats import binomtest

import compress
from compress.measure.speed.timing import changed, too_noisy

LONGEST_S = 3.0  # of a spell of load, and of a rest


def busy() -> None:
    """Load one processor by turns."""
    while True:
        end = time.monotonic() + random.uniform(0, LONGEST_S)
        while time.monotonic() < end:
            pass
        time.sleep(random.uniform(0, LONGEST_S))


def main() -> None:
    """A line for each run, then the shares."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("engine", type=Path, help="the folder of an engine")
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--load", type=int, default=0, help="processes that are busy by turns")
    asked = parser.parse_args()
    others = [multiprocessing.Process(target=busy, daemon=True) for _ in range(asked.load)]
    for each in others:
        each.start()
    claims, noisy = 0, 0
    with tempfile.TemporaryDirectory() as room:
        copy = shutil.copytree(asked.engine, Path(room) / "copy")
        for number in range(asked.runs):
            rows = compress.bench([asked.engine, copy], batch=[1], repeats=asked.repeats, threads=asked.threads)
            interval = rows[1].speed.speedup_vs_reference_ci95
            assert interval is not None
            claims, noisy = claims + changed(interval), noisy + too_noisy(interval)
            print(f"{number + 1}: {interval[0]:.3f} to {interval[1]:.3f}", flush=True)
    for each in others:
        each.terminate()
    upper = binomtest(claims, asked.runs).proportion_ci(method="wilson").high
    print(f"{claims} of {asked.runs} runs claimed a change (95 % interval up to {upper:.0%}), {noisy} were too noisy")


if __name__ == "__main__":
    main()
