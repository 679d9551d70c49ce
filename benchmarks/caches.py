"""What a quantized cache of keys and values costs and saves: `python benchmarks/caches.py`.

Every row is the fused export of a shipped model behind `quantize-cache`, compared on held-out pictures with the same
export whose cache is float32. Times are of whole pictures, all rows interleaved.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import shapes

from compress.core.settings import parse, plain
from compress.data.tokens import open_source
from compress.measure.drift.fidelity import fidelity
from compress.measure.speed.environment import environment
from compress.measure.speed.pinning import pinned
from compress.measure.speed.timing import paired
from compress.models.transformer.examples import examples
from compress.passes import Context, find
from export.runtime.engine import Engine

CALIBRATION = 64
CACHES: dict[str, dict[str, Any]] = {
    "int8 by channel": {},
    "int8 by tensor": {"scales": "tensor"},
    "int4 by channel": {"format": "int4"},
    "int4 by tensor": {"format": "int4", "scales": "tensor"},
}
EXACT = "float32"


def main() -> None:
    """Build the engines of each model, compare and time them, print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--models", default="digits,emoji")
    parser.add_argument("--held-out", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=12, help="rounds, at least 6")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = [row for name in args.models.split(",") for row in compared(name, args)]
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps({"machine": plain(environment()), "rows": rows}, indent=1) + "\n")


def compared(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each cache of a model."""
    model, tokens = shapes.build(name), open_source(name, "tokens")
    with tempfile.TemporaryDirectory() as room:
        context = Context(model, tokens, CALIBRATION, 0, Path(room))

        def passed(given: Any, step: str, settings: dict[str, Any]) -> Any:
            return parse(find(step, "caches"), settings, step).run(given, context).model

        fused = passed(passed(model, "export", {"target": "onnxruntime"}), "fuse", {})
        engines = {}
        for title, settings in {EXACT: None, **CACHES}.items():
            folder = Path(room) / title.replace(" ", "-")
            folder.mkdir()
            (fused if settings is None else passed(fused, "quantize-cache", settings)).save(folder)
            engines[title] = Engine.load(folder, threads=args.threads)
        batch = examples(model.shape, tokens.part("held_out", args.held_out), 0)
        logits = {title: engine.score(batch.inputs, batch.features) for title, engine in engines.items()}
        with pinned(args.threads):
            timings = paired({title: drawer(engine) for title, engine in engines.items()}, args.repeats)
    rows = []
    for title, engine in engines.items():
        drift = fidelity(logits[EXACT], logits[title], batch.targets)
        rows.append(
            {
                "model": name,
                "cache": title,
                "kl": drift.kl,
                "kl_ci95": drift.kl_ci95,
                "agreement": drift.agreement,
                "bytes": engine.cache_bytes,
                "ms": timings.median_ms(title).value,
                "ratio": timings.speedup(title, EXACT).value,
                "ratio_ci95": timings.speedup(title, EXACT).ci95,
            }
        )
    return rows


def drawer(engine: Engine) -> Callable[[], object]:
    """Draws one picture without guidance."""
    label, sampler = np.zeros(1, dtype=np.int64), engine.sampler.changed(cfg_scale=1.0)
    return lambda: engine.draw_tokens(label, 0, sampler)


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown."""
    lines = [
        "| model | cache | KL x1000 | agreement | bytes of a picture's cache | ms a picture | float32's time / own |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        low, high = (1000 * end for end in row["kl_ci95"])
        first, last = row["ratio_ci95"]
        lines.append(
            f"| {row['model']} | {row['cache']} | {1000 * row['kl']:.3f} ({low:.3f} to {high:.3f}) | "
            f"{100 * row['agreement']:.1f} % | {row['bytes']:,} | {row['ms']:.1f} | "
            f"{row['ratio']:.2f} ({first:.2f} to {last:.2f}) |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
