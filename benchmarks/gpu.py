"""What PyTorch alone reaches on a GPU, which any engine there has to beat: `python benchmarks/gpu.py --json gpu.json`.

Every variant of a step is timed beside the others in interleaved rounds and compared with the device's own limits,
which are measured first. A variant that fails becomes a row that says why. What did not fit into `--seconds` is named.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import gpu_limits
import gpu_work
import torch
from gpu_limits import Limits, elapsed_ms
from gpu_work import COMPILED, EAGER, PLAIN, Variant, Work

# In order of value: shapes, then rows of a step.
SHAPES = ("llamagen-xl", "llamagen-b", "var-d16", "maskgit", "llamagen-l")
ROWS = (2, 8, 1, 64)
PICTURE_ROWS = (2, 64)  # whole pictures take 256 steps
COMPILED_FIRST = 2  # rows; compiling is dear, so the other rows come last
ROUNDS = {"cuda": 11, "cpu": 3}
PICTURE_ROUNDS = {"cuda": 3, "cpu": 1}
BURST_MS = 5.0  # of a variant in a round
MOST_CALLS = 20
GUESS_S = {False: 8.0, True: 45.0}  # of a job, without and with compiling, until one was measured
MARGIN = 1.5  # jobs may take so much more than those before

Row = dict[str, Any]


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the limits, then job after job; the JSON is written after each."""
    started = time.perf_counter()
    asked = options().parse_args(arguments)
    device = torch.device(asked.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(
            "gpu.py: PyTorch finds no CUDA device; `--device cpu --shape tiny` only tries the script", file=sys.stderr
        )
        raise SystemExit(2)
    if device.type == "cpu":
        torch.set_num_threads(1)
    gc.freeze()  # captures collect garbage, and what was imported is none
    limits = gpu_limits.measure(device, small=device.type != "cuda")
    found: dict[str, Any] = {"machine": {**machine(device), "limits": asdict(limits)}, "rows": [], "left_out": []}
    say(started, f"{found['machine']}")
    rows: dict[tuple[Any, ...], Row] = {}
    took: dict[bool, list[float]] = {False: [], True: []}
    work: Work | None = None
    for name, count, compiled in jobs(asked.shape, asked.rows):
        label = f"{name}, {count} rows{', compiled' if compiled else ''}"
        begun = time.perf_counter()
        needed = MARGIN * statistics.mean(took[compiled]) if took[compiled] else GUESS_S[compiled]
        left = asked.seconds - (begun - started)
        if needed > left:
            found["left_out"].append(f"{label}: would take about {needed:.0f} s, {max(left, 0):.0f} s are left")
            continue
        try:
            if work is None or work.name != name:
                work = None
                free(device)
                work = Work(name, device, max(asked.rows))
            made = job(work, count, compiled, limits)
        except Exception as error:  # one job's failure must not cost the others
            made = [{"shape": name, "rows": count, "what": "all", "variant": label, "note": reason(error)}]
        rows.update({(row["shape"], row["rows"], row["what"], row["variant"]): row for row in made})
        free(device)
        took[compiled].append(time.perf_counter() - begun)
        found["rows"] = list(rows.values())
        write(found, asked.json)
        say(started, f"{label}: {took[compiled][-1]:.1f} s")
    write(found, asked.json)
    print(page(found))


def options() -> argparse.ArgumentParser:
    """The command line."""
    known = (*SHAPES, "tiny", *gpu_work.TINY)
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--shape", nargs="+", choices=known, default=list(SHAPES), metavar="NAME", help=str(known))
    parser.add_argument("--rows", nargs="+", type=int, default=list(ROWS), help="rows of a step")
    parser.add_argument("--seconds", type=float, default=150.0, help="budget, from the start of the program")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--json", type=Path)
    return parser


def jobs(shapes: Sequence[str], rows: Sequence[int]) -> list[tuple[str, int, bool]]:
    """Shape, rows and whether blocks are compiled, in order of value: compiling comes behind all that is cheap."""
    first = [(name, count, False) for name in shapes for count in rows]
    compiled = [(name, count, True) for name in shapes for count in rows]
    return first + sorted(compiled, key=lambda each: each[1] != COMPILED_FIRST)


def job(work: Work, rows: int, compiled: bool, limits: Limits) -> list[Row]:
    """Rows of one shape and batch: every variant built, checked and timed beside the others."""
    ways = (*PLAIN[:2], *COMPILED) if compiled else PLAIN
    ready, made = [], []
    for way in ways:
        row: Row = {"shape": work.name, "rows": rows, "what": what(work), "variant": way.name, "note": ""}
        made.append(row)
        variant = guarded(row, partial(work.variant, way, rows))
        if variant is not None and checked(work, variant, rows, row):
            ready.append((row, variant))
    times = interleaved({each.name: each.run for _, each in ready}, work.device, ROUNDS[work.device.type])
    for row, variant in ready:
        row |= timed(times, variant.name) | limited(variant, limits, times, 1)
    if rows in PICTURE_ROWS:
        made += pictures(work, rows, [each for _, each in ready if each.picture is not None], limits)
    return made


def checked(work: Work, variant: Variant, rows: int, row: Row) -> bool:
    """Whether a variant ran; how far it is from fp32 goes into its row."""
    row |= {"kind": variant.kind, "prepare_s": variant.prepare_s, "note": variant.note}
    if variant.checked is None:
        return guarded(row, variant.run) is not None
    found = guarded(row, lambda: work.difference(variant, rows))
    if found is not None:
        judge(row, *found)
    return found is not None


def judge(row: Row, kl: float, agreement: float) -> None:
    """Both numbers into the row, and a word where rounding does not explain them."""
    row |= {"kl": kl, "agreement": agreement}
    if not kl <= gpu_work.MOST_KL[row["kind"]]:  # NaN too
        row["note"] = f"WRONG: KL {kl:.3g}; {row['note']}".rstrip("; ")


def pictures(work: Work, rows: int, variants: list[Variant], limits: Limits) -> list[Row]:
    """Rows of whole pictures, every token sampled; the step that is timed alone is their average one."""
    made = []
    for variant in variants:
        row: Row = {"shape": work.name, "rows": rows, "what": "picture", "variant": variant.name, "kind": variant.kind}
        row["note"] = ""
        made.append(row)
        found = guarded(row, partial(work.drawn_difference, variant))
        if found is not None:
            judge(row, *found)
    runs = {row["variant"]: variant.picture for row, variant in zip(made, variants, strict=True) if "kl" in row}
    times = interleaved(runs, work.device, PICTURE_ROUNDS[work.device.type], most=1)  # type: ignore[arg-type]
    for row, variant in zip(made, variants, strict=True):
        if variant.name in times:
            row |= timed(times, variant.name) | limited(variant, limits, times, work.config.length)
            row["ms_per_token"] = row["ms"] / work.config.length
            row["note"] = f"{row['ms_per_token']:.3g} ms a token; {row['note']}".rstrip("; ")
    return made


def guarded(row: Row, run: Callable[[], Any]) -> Any:
    """What a call gives; None where it fails, and then the row says why."""
    try:
        return run()
    except Exception as error:
        row["note"] = reason(error)
        return None


def reason(error: Exception) -> str:
    """An error in one line."""
    lines = [each.strip() for each in str(error).splitlines() if each.strip()] or [""]
    return f"failed: {type(error).__name__}: {lines[0][:160]}"


def interleaved(
    runs: dict[str, Callable[[], object]], device: torch.device, rounds: int, most: int = MOST_CALLS
) -> dict[str, list[float]]:
    """Milliseconds of a call in each round, every variant once a round."""
    calls = {}
    for name, run in runs.items():
        once = min(elapsed_ms(run, 1, device) for _ in range(1 if most == 1 else 3))
        calls[name] = max(1, min(most, round(BURST_MS / max(once, 1e-3))))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(elapsed_ms(run, calls[name], device))
    return times


def timed(times: dict[str, list[float]], name: str) -> Row:
    """Median, spread (from the second lowest to the second highest round, of the median) and speedup over eager."""
    mine = sorted(times[name])
    middle = statistics.median(mine)
    inner = mine[1:-1] if len(mine) > 4 else mine
    eager = times.get(EAGER)
    speedup = statistics.median(b / a for a, b in zip(times[name], eager, strict=True)) if eager else None
    return {"ms": middle, "spread": (inner[-1] - inner[0]) / middle, "x_eager": speedup}


def limited(variant: Variant, limits: Limits, times: dict[str, list[float]], steps: int) -> Row:
    """The lower bound of so many steps of this precision, and how far from it the variant is."""
    cost = variant.cost
    floor = steps * cost.floor_ms(limits)
    step = {"mib_a_step": cost.bytes / 2**20, "gflop_a_step": (cost.product_flops + cost.attention_flops) / 1e9}
    return {**step, "floor_ms": floor, "x_floor": statistics.median(times[variant.name]) / floor}


def what(work: Work) -> str:
    """What is timed of a shape."""
    if work.config.drawing.sequential:
        return f"step at {work.before}"
    return "forward" if work.config.drawing.masks else "last scale"


def machine(device: torch.device) -> Row:
    """The GPU and the software on it."""
    found: Row = {"torch": torch.__version__, "cuda": torch.version.cuda, "python": platform.python_version()}
    if device.type != "cuda":
        return {**found, "gpu": None}
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        driver = None
    about = torch.cuda.get_device_properties(device)
    capability = f"{about.major}.{about.minor}"
    return {
        **found,
        "gpu": about.name,
        "capability": capability,
        "memory_gib": about.total_memory / 2**30,
        "driver": driver,
    }


def free(device: torch.device) -> None:
    """Give memory back between jobs."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def write(found: dict[str, Any], path: Path | None) -> None:
    """The JSON as it stands; a file that is there is replaced whole."""
    if path is not None:
        part = path.with_name(f"{path.name}.part")
        part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        os.replace(part, path)


def say(started: float, text: str) -> None:
    """A line of progress with the seconds so far."""
    print(f"[{time.perf_counter() - started:5.1f} s] {text}", flush=True)


HEAD = """
## On a GPU, without an engine

{gpu}, driver {driver}, PyTorch {torch}, CUDA {cuda}. Copying within its memory {copy:.0f} GB/s (read plus written),
products of 8192 x 8192 in bf16 {bf16:.0f} TFLOP/s, in FP8 {fp8}, measured by the same run. Weights are random; KL and
agreement are against fp32 on the same device. "MiB" is what a step must read and write at least, weights, cache and
logits; "x floor" how many times slower a variant is than the larger of that at the speed of a copy and its operations
at the rate of products of its precision. With FP8 only the linear layers are FP8, scaled by rows; attention is bf16.
"packed": query, key and value in one product, gate and up projection too. "products alone": the linear layers and
nothing else. Eager is the model's own step.
"""
COLUMNS = {
    "variant": "variant",
    "ms": "ms",
    "spread": "spread",
    "x_eager": "x eager",
    "mib_a_step": "MiB",
    "floor_ms": "floor ms",
    "x_floor": "x floor",
    "kl": "KL",
    "agreement": "agree",
    "note": "",
}


def page(found: dict[str, Any]) -> str:
    """The machine, its limits, every table, and what was left out."""
    machine, limits = found["machine"], Limits(**found["machine"]["limits"])
    fp8 = f"{limits.fp8_tflops:.0f}" if limits.fp8_tflops else "no"
    head = HEAD.format(
        gpu=machine["gpu"] or "A CPU, only to try the script",
        driver=machine.get("driver"),
        torch=machine["torch"],
        cuda=machine["cuda"],
        copy=limits.copy_gb_per_s,
        bf16=limits.bf16_tflops,
        fp8=fp8,
    )
    return "\n".join([head, table(found["rows"]), *(f"\nLeft out: {each}." for each in found["left_out"])])


def table(rows: list[Row]) -> str:
    """Rows as Markdown, a table for each shape and batch."""
    parts: list[str] = []
    for key in dict.fromkeys((row["shape"], row["rows"], row["what"]) for row in rows):
        chosen = [row for row in rows if (row["shape"], row["rows"], row["what"]) == key]
        parts += [f"\n### {key[0]}, {key[1]} row{'s' if key[1] > 1 else ''}, {key[2]}\n"]
        parts += [f"| {' | '.join(COLUMNS.values())} |", f"|---{'|---:' * (len(COLUMNS) - 2)}|---|"]
        parts += [f"| {' | '.join(cell(name, row.get(name)) for name in COLUMNS)} |" for row in chosen]
    return "\n".join(parts)


def cell(name: str, value: Any) -> str:
    """A value as the table shows it."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if name in ("spread", "agreement"):
        return f"{100 * value:.0f} %" if name == "spread" else f"{100 * value:.1f} %"
    return f"{value:.1e}" if name == "kl" else f"{value:.3g}" if value < 100 else f"{value:.0f}"


if __name__ == "__main__":
    main()
