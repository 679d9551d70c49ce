"""Every stack that decodes a shape, side by side in one process: `python benchmarks/decode.py --shape llamagen-b`.

A batch is the rows of a step: 2 is one picture with classifier-free guidance, 1 is one without. Milliseconds per token
are the time of whole pictures, sampling included, divided by their tokens; our engines and eager PyTorch sample as the
shape's authors do, peers as benchmarks/peers.py says.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peers
import shapes
import stacks

from compress.core.settings import plain
from compress.measure.speed.environment import environment
from compress.measure.speed.timing import paired
from compress.models.image_model import ImageModel
from compress.passes import PassError
from export.runtime import roofline
from export.runtime.roofline import Roofline

BASELINE = "torch eager fp32"
KNOWN = (*stacks.EAGER, *stacks.ENGINES, *peers.NAMES)


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the stacks, time them, print the table, write the JSON."""
    args = checked(options(), arguments)
    limits = roofline.measure(args.threads)
    rows: list[dict[str, Any]] = []
    for name in args.shape:
        model = shapes.build(name)
        with tempfile.TemporaryDirectory() as room:
            ready = built(model, args, Path(room))
            for batch in [] if args.prepare else args.batch:
                rows += timed(model, ready, batch, args, limits)
            if args.pictures and not args.prepare:
                rows += pictured(model, ready, args)
    if rows:
        print(table(rows))
    if args.json:
        machine = {**plain(environment()), "roofline": vars(limits)}
        args.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    usual = [name for name in KNOWN if name != stacks.COMPILED and "decoder" not in name and "hoist" not in name]
    parser.add_argument("--shape", type=listed, default=["llamagen-b"], help=", ".join(shapes.NAMES))
    parser.add_argument("--batch", type=numbers, default=[1, 2, 8], help="rows of a step")
    parser.add_argument("--stacks", type=listed, default=usual, help="; ".join(KNOWN))
    parser.add_argument("--stack", action="append", metavar="NAME", help="one stack, commas and all; may be repeated")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=6, help="rounds, at least 6")
    parser.add_argument("--budget", type=float, default=1200.0, help="seconds of timing at most for each batch")
    parser.add_argument("--memory", action="store_true", help="measure the peak memory of our engines")
    parser.add_argument("--pictures", action="store_true", help="label to pixels too, image decoder included")
    parser.add_argument("--peers", type=Path, help="folder that keeps what peers make")
    parser.add_argument("--prepare", action="store_true", help="only build the stacks")
    parser.add_argument("--json", type=Path)
    return parser


def checked(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """What is asked for; a name that is not known ends the program with exit code 2 before anything is built."""
    args = parser.parse_args(arguments)
    args.stacks = args.stack or args.stacks
    for option, names, known in (("--shape", args.shape, shapes.NAMES), ("--stacks", args.stacks, KNOWN)):
        for name in names:
            if name not in known:
                parser.error(f"{option}: {name!r} is none of {'; '.join(known)}")
    return args


def listed(text: str) -> list[str]:
    """Names separated by commas, or by semicolons; one stack's own commas are told from those between stacks."""
    if ";" in text:
        return [each.strip() for each in text.split(";") if each.strip()]
    names, parts = [], [each.strip() for each in text.split(",")]
    while parts:
        # The longest run of parts that is a stack's name; else the first part as it is.
        count = next((n for n in range(len(parts), 0, -1) if ", ".join(parts[:n]) in KNOWN), 1)
        names.append(", ".join(parts[:count]))
        parts = parts[count:]
    return names


def numbers(text: str) -> list[int]:
    """Numbers separated by commas."""
    return [int(each) for each in text.split(",") if each]


def built(model: ImageModel, args: argparse.Namespace, room: Path) -> list[stacks.Stack]:
    """The stacks that were asked for; one that cannot be built is named with the reason."""
    ready = []
    kept = (args.peers or room) / model.name
    for name in args.stacks:
        try:
            if name in stacks.EAGER:
                if name != BASELINE and not model.shape.drawing.sequential:
                    raise peers.Missing("only causal models are drawn with it here")
                ready.append(stacks.eager(name, model, args.threads))
            elif name in stacks.ENGINES:
                ready.append(stacks.own(name, model, room, args.threads))
            else:
                ready.append(peers.peer(name, model.transformer.config, kept, args.threads))
        except (peers.Missing, PassError) as error:
            print(f"{model.name}: {name}: left out: {error}", file=sys.stderr)
    return ready


def timed(
    model: ImageModel, ready: list[stacks.Stack], batch: int, args: argparse.Namespace, limits: Roofline
) -> list[dict[str, Any]]:
    """Rows of one batch."""
    runners = {each.name: lambda each=each: each.draw(batch) for each in ready}  # type: ignore[misc]
    times = paired(runners, args.repeats, budget_s=args.budget)
    seconds = {each.name: times.median_ms(each.name).value / 1e3 for each in ready}
    best_peer = min((each.name for each in ready if each.peer), key=lambda name: seconds[name], default=None)
    pictures = max(1, batch // 2) if model.sampler.guided else batch
    steps = model.shape.length
    rows = []
    for each in ready:
        rows.append(
            {
                "stack": each.name,
                "shape": model.name,
                "batch": batch,
                "ms_per_token": 1e3 * seconds[each.name] / steps,
                "s_per_image": seconds[each.name] / pictures,
                "peak_mib": each.peak(batch) if args.memory else None,
                "file_mib": each.file_mib,
                "ratio_eager": ratio(times, each.name, BASELINE if BASELINE in seconds else None),
                "ratio_best_peer": ratio(times, each.name, best_peer),
                "roofline_share": share(model, each, batch, seconds[each.name], limits),
            }
        )
    return rows


def ratio(times: Any, name: str, other: str | None) -> float | None:
    """How many times faster than another, by the median of paired ratios."""
    return None if other is None else 1.0 if other == name else times.speedup(name, other).value


def share(model: ImageModel, stack: stacks.Stack, batch: int, seconds: float, limits: Roofline) -> float:
    """Part of the measured limit: of the bandwidth where a step reads weights for few rows, else of products."""
    if model.shape.drawing.sequential:
        return limits.share_of_bandwidth(stack.weight_bytes * model.shape.length, seconds)
    passes = model.sampler.steps if model.shape.drawing.masks else 1
    # Modulation reads the class, not every position.
    products = sum(each.weight.numel() for name, each in model.transformer.linears() if "modulation" not in name)
    flops = 2.0 * products * model.shape.length * passes * batch
    return limits.share_of_products(flops, seconds, "int8" if "int" in stack.name else "fp32")


def pictured(model: ImageModel, ready: list[stacks.Stack], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of label to pixels with guidance, image decoder included: one picture at a time."""
    able = {each.name: each.picture for each in ready if each.picture is not None}
    times = paired(able, args.repeats, budget_s=args.budget)
    return [
        {
            "stack": f"{name}, label to pixels",
            "shape": model.name,
            "batch": 2 if model.sampler.guided else 1,
            "ms_per_token": times.median_ms(name).value / model.shape.length,
            "s_per_image": times.median_ms(name).value / 1e3,
            "peak_mib": None,
            "file_mib": next(each.file_mib for each in ready if each.name == name),
            "ratio_eager": ratio(times, name, BASELINE if BASELINE in able else None),
            "ratio_best_peer": None,
            "roofline_share": None,
        }
        for name in able
    ]


COLUMNS = {
    "stack": "stack",
    "ms_per_token": "ms/token",
    "s_per_image": "s/image",
    "peak_mib": "peak MiB",
    "file_mib": "file MiB",
    "ratio_eager": "x eager",
    "ratio_best_peer": "x best peer",
    "roofline_share": "of the limit",
}


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown, a table for each shape and batch."""
    parts: list[str] = []
    for shape, batch in dict.fromkeys((row["shape"], row["batch"]) for row in rows):
        parts += [f"\n### {shape}, {batch} row{'s' if batch > 1 else ''} a step\n"]
        parts += [f"| {' | '.join(COLUMNS.values())} |", f"|---{'|---:' * (len(COLUMNS) - 1)}|"]
        chosen = [row for row in rows if (row["shape"], row["batch"]) == (shape, batch)]
        parts += [f"| {' | '.join(cell(name, row[name]) for name in COLUMNS)} |" for row in chosen]
    return "\n".join(parts)


def cell(name: str, value: Any) -> str:
    """A value as the table shows it."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return f"{100 * value:.0f} %" if name == "roofline_share" else f"{value:.3g}" if value < 100 else f"{value:.0f}"


if __name__ == "__main__":
    main()
