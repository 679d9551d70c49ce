"""What a run would cost, foreseen from shapes and a short look at this machine: ranges, as nothing ran yet.

Time is counted: how often each pass, measure and timing scores, teaches, draws and decodes a picture, times what that
takes here (`pace.py`). A rehearsal (`compress plan RECIPE --preflight`) runs every pass instead.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from compress.core.settings import parse
from compress.drafting.facts import Facts
from compress.drafting.goals import Draft, Item
from compress.drafting.pace import Pace, on_threads, pace_of
from compress.drafting.tokens import Pictures
from compress.measure.pictures.classify import DIGITS
from compress.models.artifact import Form
from compress.passes import find
from compress.recipe.preflight import BYTES_PER_WEIGHT, GRAPH_COPIES, MIB, SCORED_SIDES
from compress.recipe.recipe import Bench
from compress.running.measurements import DRAWN_PICTURES, EAGER_REPEATS
from compress.running.pipeline import PAIRED_PICTURES
from compress.verifying.inspection import engine_bytes

SIDE = 512  # of the matrices whose product is timed
TRIES = 4
# What a pass does with a calibration picture, in scorings of one; seen in runs of shipped models.
LOOKS = {"quantize": 14, "smooth": 8, "rotate": 1, "prune-to": 25}
WARMUPS = 2.5  # rounds before those that are timed, on average
TIMED = 3  # models in a round: a step's, the reference's and the previous step's
ALONE = 0.15  # share of the time of PyTorch that an engine takes to draw one picture: 0.12 of `digits`
TOGETHER = 0.7  # share of the time of PyTorch that an engine takes where it draws many pictures at once
STEP_S, ENGINE_S = 5.0, 5.0  # to rehearse, trace, write and open a step, and for statistics of an engine's pictures
WRITTEN = 1e8  # bytes of weights a second that a step writes, hashes and reads
HELD_MIB = 500  # by the process with its libraries
SPREAD = 2.0  # that memory differs by
NEAR = 1.6  # factor below and above that time differs by
FAR = 3.5  # the same where no layer could be looked at


@dataclass(frozen=True)
class Cost:
    """What is foreseen; `engine_bytes` is None where shapes do not say it."""

    engine_bytes: int | None
    memory_mib: tuple[float, float]
    seconds: tuple[float, float]

    def lines(self) -> list[str]:
        """A line for each."""
        size = f"about {self.engine_bytes / 1e6:.1f} MB of weights" if self.engine_bytes else "known once it is made"
        low, high = self.memory_mib
        return [
            f"the engine: {size}, without the image decoder's",
            f"memory of the run: between {low:.0f} and {high:.0f} MiB",
            f"time of the run: between {duration(self.seconds[0])} and {duration(self.seconds[1])} on this machine, if "
            "nothing else works on it",
        ]


def duration(seconds: float) -> str:
    """A duration that is known to a digit or two."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{max(1, round(seconds))} s"


def foresee(facts: Facts, draft: Draft, pictures: Pictures, pace: Pace) -> Cost:
    """What the run of a draft would cost, at this pace."""
    steps = list(draft.kept)
    weights = facts.parameters * BYTES_PER_WEIGHT
    logits = SCORED_SIDES * pictures.held_out * facts.tokenizer.length * facts.tokenizer.vocabulary * BYTES_PER_WEIGHT
    low = HELD_MIB + ((GRAPH_COPIES + 1) * weights + logits) / MIB
    fixed = STEP_S * (len(steps) + 1) + ENGINE_S * len(draft.engines) + weights * (len(steps) + 1) / WRITTEN
    middle, factor = fixed + made(steps, pictures, pace) + measured(draft, pictures, pace), NEAR if facts.model else FAR
    return Cost(weights_of(facts, steps), (low, SPREAD * low), (middle / factor, middle * factor))


def made(steps: list[Item], pictures: Pictures, pace: Pace) -> float:
    """Seconds that the passes work on pictures."""
    looks = sum(LOOKS.get(step.name, 0) for step in steps) * pictures.calibration
    taught: float = sum(
        step.settings["steps"] * step.settings.get("batch", 32) for step in steps if step.name == "distill"
    )
    return looks * pace.scored + taught * (pace.taught + pace.scored)  # the teacher scores what the student is taught


def measured(draft: Draft, pictures: Pictures, pace: Pace) -> float:
    """Seconds that scoring, drawing and timing take: of the reference, each step and each engine."""
    engines = len(draft.engines)
    graphs = sum(find(step.name, "init").returns is not Form.TORCH for step in draft.kept)
    in_torch = len(list(draft.kept)) - graphs + 1
    bench = parse(Bench, draft.bench, "bench")
    samples = bench.samples if pictures.source == DIGITS else min(bench.samples, DRAWN_PICTURES)
    # Given and unconditional logits of each model, the noise floor, and those of the pictures that were drawn.
    scored = pictures.held_out * (2 * in_torch + 1 + 3 * graphs) + samples * (engines + 4)
    drawn = 2 * samples + PAIRED_PICTURES * engines  # by the reference, with two seeds
    by_engines = samples * (2 * engines + 1) + PAIRED_PICTURES * engines  # and by its plain export
    rounds, at_once = bench.repeats + WARMUPS, sum(bench.batch)
    eager = (1 + engines) * (min(bench.repeats, EAGER_REPEATS) + WARMUPS) * at_once
    as_deployed = (1 + TIMED * (in_torch - 1 + graphs - engines)) * rounds * at_once
    return (
        scored * pace.scored
        + (drawn + TOGETHER * by_engines) * pace.drawn
        + (eager + ALONE * as_deployed) * pace.alone
        + (drawn + by_engines + eager + as_deployed) * pace.decoded
    )


def pace_here(facts: Facts, threads: int) -> Pace:
    """How long a picture takes on this machine; of what is an ONNX graph, guessed from its number of weights."""
    if facts.model is not None:
        return pace_of(facts.model, threads)
    scored = 2.0 * facts.parameters * facts.tokenizer.length / speed_here(threads)
    slower = 10 * scored  # a row at a time reads all weights for each
    return Pace(scored, 3 * scored, 2 * scored, slower, 0.0)


def weights_of(facts: Facts, steps: list[Item]) -> int | None:
    """Bytes of an engine's weights, as `compress models inspect` predicts them of the formats."""
    if facts.model is None:
        return None
    settings = {step.name: step.settings for step in steps}
    sizes = engine_bytes(facts.model.transformer)
    wanted = str(settings.get("quantize", {}).get("weights", "fp32"))
    size = next((size for name, size in sizes.items() if name.startswith(wanted)), sizes["fp32"])
    if settings.get("quantize", {}).get("embedding") == "int8":
        size -= 3 * facts.model.transformer.embedding.weight.numel()
    if "quantize" not in settings and settings.get("export", {}).get("floats") == "float16":
        size //= 2
    return round(size * float(settings.get("prune-to", {}).get("parameters", 1)))


def speed_here(threads: int) -> float:
    """Operations a second of a large product in float32 on this machine, on so many threads; it takes some 0.1 s."""
    with on_threads(threads):
        left, best = torch.ones(SIDE, SIDE), math.inf
        for _ in range(TRIES):
            started = time.perf_counter()
            left @ left
            best = min(best, time.perf_counter() - started)
    return 2.0 * SIDE**3 / best
