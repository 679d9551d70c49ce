"""What a token costs early and late in a picture of 1,024, and a fresh session's first picture: `positions.py`.

A step at the position 64 is compared with the last one; the first picture of a session just opened with the median of
the next ones.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import shapes
import stacks

from compress.core.settings import plain
from compress.measure.speed.environment import environment
from export.runtime.engine import Engine

SHAPE = "llamagen-b-512"
EARLY, AROUND = 64, 16  # the position, and as many steps around it
ROUNDS = 5


def main() -> None:
    """Build the engines, time every step of some pictures, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--shape", default=SHAPE)
    parser.add_argument("--stacks", default="fp32;int8 g128;int4 g128;int4 g128, int8 cache")
    parser.add_argument("--batch", default="1,2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = shapes.build(args.shape)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as room:
        for name in args.stacks.split(";"):
            folder = stacks.passed(model, stacks.ENGINES[name], Path(room) / name.replace(" ", "-").replace(",", ""))
            for batch in map(int, args.batch.split(",")):
                rows.append(
                    {"engine": f"ours {name}", "shape": args.shape, "batch": batch, **timed(folder, batch, args)}
                )
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps({"machine": plain(environment()), "rows": rows}, indent=1) + "\n")


def timed(folder: Path, batch: int, args: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of a step at both places, and of the first picture and the next ones."""
    engine = Engine.load(folder, threads=args.threads)
    labels = np.zeros(batch, dtype=np.int64)
    unguided = engine.sampler.changed(cfg_scale=1.0)
    pictures = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        engine.draw_tokens(labels, 0, unguided)
        pictures.append(time.perf_counter() - start)
    loop, steps = engine._loop(batch), []  # steps alone are timed, so the loop is driven by hand
    for _ in range(ROUNDS):
        loop.begin(labels)
        tokens, round_ = np.zeros((batch, 1), dtype=np.int64), []
        for _ in range(engine.length - 1):
            start = time.perf_counter()
            loop.step(tokens)
            round_.append(time.perf_counter() - start)
        steps.append(round_)
    each = 1e3 * np.array(steps)
    early = float(np.median(each[:, EARLY - AROUND // 2 : EARLY + AROUND // 2]))
    late = float(np.median(each[:, -AROUND:]))
    return {
        "ms_early": early,
        "ms_late": late,
        "late_over_early": late / early,
        "first_over_median": pictures[0] / float(np.median(pictures[1:])),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown."""
    lines = [
        "\n### The position of a token, and a session's first picture\n",
        f"| engine | shape | rows | ms at token {EARLY} | ms at the last | last / early | first picture / median |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        numbers = [f"{row[name]:.2f}" for name in ("ms_early", "ms_late", "late_over_early", "first_over_median")]
        lines.append(f"| {row['engine']} | {row['shape']} | {row['batch']} | {' | '.join(numbers)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
