"""What guidance in an interval of steps saves: `guidance_interval.py ENGINE ...`.

Every engine draws with guidance at all steps, in intervals of them, and at none, in turn in one process; a row of the
table has the rows that were computed, the median time that processors spent on a drawing without its decoding, which
others' work on the machine changes little, and how many tokens differ from those of two rows at every step. That is 0
but for rounding.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import plain
from compress.measure.speed.environment import environment
from export.runtime import engine as runtime
from export.runtime.drawing import draw
from export.runtime.engine import Engine
from export.runtime.sampling import Sampler
from export.runtime.sparing import SparingDrawer

# Shares of the steps: all, the middle, the first and the last half, none.
INTERVALS = {"all": (0, 1), "middle half": (0.25, 0.75), "first half": (0, 0.5), "last half": (0.5, 1), "none": None}


@dataclass
class Case:
    """One engine with one interval."""

    name: str
    sampler: Sampler
    rows: int = 0
    apart: int = 0
    seconds: list[float] = field(default_factory=list)


def main() -> None:
    """Time all engines and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("engines", type=Path, nargs="+")
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scale", type=float, default=2.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for folder in args.engines:
        engine = Engine.load(folder, threads=args.threads)
        for batch in map(int, args.batch.split(",")):
            rows += timed(engine, batch, args)
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps({"machine": plain(environment()), "rows": rows}, indent=1) + "\n")


def timed(engine: Engine, batch: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of the table: every interval in turn, after a drawing that is not timed."""
    labels = np.arange(batch, dtype=np.int64) % max(engine.classes, 1)
    steps = engine.shape.drawing.steps(engine.shape, engine.sampler)
    cases = [Case(name, sampler_for(engine, ends, steps, args.scale)) for name, ends in INTERVALS.items()]
    for case in cases:
        case.rows = rows_of(engine, labels, case.sampler, steps)
        if case.sampler.guided:
            case.apart = int((engine.draw_tokens(labels, 0, case.sampler) != two_rows(engine, labels, case)).sum())
    for number in range(args.rounds):
        for case in cases:
            started = time.process_time()
            engine.draw_tokens(labels, number, case.sampler)
            case.seconds.append(time.process_time() - started)
    whole = median(cases[0].seconds)
    return [
        {
            "engine": engine.folder.name,
            "batch": batch,
            "guided": case.name,
            "rows": case.rows / batch,
            "ms": 1000 * median(case.seconds),
            "of all": median(case.seconds) / whole,
            "apart": case.apart / (batch * engine.length),
        }
        for case in cases
    ]


def sampler_for(engine: Engine, ends: tuple[float, float] | None, steps: int, scale: float) -> Sampler:
    """The engine's own with this guidance; no interval where it is applied at all steps."""
    if ends is None:
        return engine.sampler.changed(cfg_scale=1.0)
    start, stop = (round(end * steps) for end in ends)
    limits = {} if (start, stop) == (0, steps) else {"guidance_start": start, "guidance_stop": stop}
    return engine.sampler.changed(cfg_scale=scale, **limits)


def rows_of(engine: Engine, labels: NDArray[np.int64], sampler: Sampler, steps: int) -> int:
    """Rows of all steps together; those that catch up in one call are not among them."""
    made: list[SparingDrawer] = []

    class Noted(SparingDrawer):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            made.append(self)

    with mock.patch.object(runtime, "SparingDrawer", Noted):
        engine.draw_tokens(labels, 0, sampler)
    return sum(made[0].rows_of_steps) if made else steps * len(labels) * (2 if sampler.guided else 1)


def two_rows(engine: Engine, labels: NDArray[np.int64], case: Case) -> NDArray[np.int64]:
    """What is drawn with two rows at every step."""
    with engine._lent(2 * len(labels)) as loop:
        return draw(engine._drawer(loop, case.sampler), labels, engine.shape, case.sampler, 0)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| Engine | Pictures at once | Guided steps | Rows of a picture | CPU time, ms | Of all guided | Tokens apart |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for row in rows:
        numbers = f"{row['rows']:.0f} | {row['ms']:.0f} | {row['of all']:.2f} | {100 * row['apart']:.2g} %"
        lines.append(f"| {row['engine']} | {row['batch']} | {row['guided']} | {numbers} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
