"""Time and peak memory of quantize, export and fuse against parameters: `python benchmarks/export_cost.py`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import shapes

from calibration.tokens import TokenSet
from compress.core.settings import plain
from compress.measure.speed.environment import environment
from compress.models.image_model import ImageModel
from compress.models.tokenizer.model import PixelTokenizer
from compress.passes import Context
from compress.passes.export import Export
from compress.passes.fuse import Fuse
from compress.passes.quantize import Quantize

SHAPES = ("llamagen-b", "llamagen-l", "llamagen-xl")
ONE = "--one"
PICTURES = 16


def main() -> None:
    """Each shape in a process of its own, so that peaks are its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--shape", default=",".join(SHAPES))
    parser.add_argument("--ranges", default="absmax,mse")
    parser.add_argument("--rounding", default="nearest", help="gptq calibrates on 16 pictures of random tokens")
    parser.add_argument("--embedding", default="int8", help="format of the table of embeddings: int8 or int4")
    parser.add_argument("--json", type=Path)
    parser.add_argument(ONE, action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(args.shape, args.ranges, args.rounding, args.embedding)))
        return
    rows = []
    for shape in args.shape.split(","):
        for ranges in args.ranges.split(","):
            command = [sys.executable, __file__, ONE, "--shape", shape, "--ranges", ranges,
                       "--rounding", args.rounding, "--embedding", args.embedding]  # fmt: skip
            rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    print(table(rows))
    if args.json:
        args.json.write_text(
            json.dumps({"machine": plain(environment()), "rows": rows}, indent=1) + "\n", encoding="utf-8"
        )


def measured(shape: str, ranges: str, rounding: str, embedding: str) -> dict[str, Any]:
    """Seconds of each pass, the peak above what the imports take, and bytes, of int4 weights and head, and a table."""
    model = shapes.build(shape)
    fp32 = sum(each.numel() for each in model.transformer.parameters()) * 4 / 2**20
    bare = resident("VmRSS") - fp32 - sum(each.numel() for each in model.tokenizer.state().values()) * 4 / 2**20
    # The transformer is what grows; the image decoder is the same for all of them.
    model = replace(model, tokenizer=PixelTokenizer(model.shape.vocabulary, model.shape.grid))
    seconds: dict[str, float] = {}
    with TemporaryDirectory() as room:
        context = Context(model, random_tokens(model), PICTURES, 0, Path(room))
        settings: Any = {"weights": "int4", "activations": "int8", "dynamic": True, "group": 128, "head": "same"}
        settings |= {"embedding": embedding, "rounding": rounding}
        passes: dict[str, Any] = {
            "quantize": Quantize(**settings, ranges=ranges),
            "export": Export(target="onnxruntime"),
            "fuse": Fuse(),
        }
        current: Any = model
        for name, each in passes.items():
            current, seconds[name] = clocked(partial(ran, each, current, context))
        _, seconds["save"] = clocked(lambda: current.save(Path(room)))
        size = sum(path.stat().st_size for path in Path(room).glob("decode.onnx*"))
    peak = resident("VmHWM") - bare
    return {
        "shape": shape,
        "ranges": ranges,
        "parameters": model.parameters(),
        "fp32_mib": fp32,
        **{f"{name}_s": value for name, value in seconds.items()},
        "total_s": sum(seconds.values()),
        "peak_mib": peak,
        "decode_mb": size / 1e6,
        "peak_share": peak / fp32,
    }


def random_tokens(model: ImageModel) -> TokenSet:
    """Pictures of random tokens and classes, for training alone."""
    generator, shape = np.random.default_rng(0), model.shape
    tokens = generator.integers(0, shape.vocabulary, (PICTURES, shape.length))
    return TokenSet(tokens, generator.integers(0, shape.classes, PICTURES), np.zeros(PICTURES, dtype=np.int64))


def ran(each: Any, model: Any, context: Context) -> Any:
    """What a pass makes of a model."""
    return each.run(model, context).model


def clocked(run: Callable[[], Any]) -> tuple[Any, float]:
    """What a call gives, and its seconds."""
    start = time.perf_counter()
    return run(), time.perf_counter() - start


def resident(kind: str) -> float:
    """MiB of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(kind))) / 1024


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown."""
    lines = [
        "\n### quantize (int4, groups of 128, head), export, fuse, save\n",
        "| shape | parameters | ranges | quantize s | export s | fuse s | save s | all s | peak MiB | of fp32 size | "
        "decode MB |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        times = " | ".join(f"{row[f'{name}_s']:.1f}" for name in ("quantize", "export", "fuse", "save", "total"))
        lines.append(
            f"| {row['shape']} | {row['parameters'] / 1e6:.1f} M | {row['ranges']} | {times} | {row['peak_mib']:.0f} | "
            f"{row['peak_share']:.2f} | {row['decode_mb']:.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
