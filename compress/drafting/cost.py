"""What a run would cost, foreseen from shapes and a short look at this machine: ranges, as nothing ran yet.

A rehearsal (`compress plan RECIPE --preflight`) measures instead.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from compress.drafting.facts import Facts
from compress.drafting.goals import Draft, Item
from compress.drafting.tokens import Pictures
from compress.recipe.preflight import BYTES_PER_WEIGHT, GRAPH_COPIES, MIB, ROUND_SHARE, SCORED_SIDES
from compress.verifying.inspection import engine_bytes

SIDE = 512  # of the matrices whose product is timed
TRIES = 4
BACKWARD = 3  # passes through the model that forward and backward take together
LOOKS = {"quantize": 4, "smooth": 2, "prune-to": 6}  # passes through the calibration pictures, about
SCORINGS = 6  # passes through the held-out pictures that measuring a step takes: call, loop, copies, layers
MODELS = 4  # that are timed beside each other
EFFICIENCY = 0.7, 0.08  # share of the speed of a large product that a run reaches: at best, and where rows are few
HELD_MIB = 500  # by the process with its libraries
SPREAD = 2.0  # that fixed work differs by


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
            f"time of the run: between {duration(self.seconds[0])} and {duration(self.seconds[1])} on this machine, as "
            "busy as it is now",
        ]


def duration(seconds: float) -> str:
    """A duration that is known to a digit or two."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{max(1, round(seconds))} s"


def foresee(facts: Facts, draft: Draft, pictures: Pictures, speed: float) -> Cost:
    """What the run of a draft would cost, where products run at `speed` operations a second."""
    steps = list(draft.kept)
    length, predicted = facts.tokenizer.length, facts.tokenizer.vocabulary
    once = 2.0 * facts.parameters * length  # operations of a pass through one picture
    passes = sum(LOOKS.get(step.name, 0) for step in steps) * pictures.calibration
    taught = [step.settings for step in steps if step.name == "distill"]
    passes += sum(each["steps"] * each.get("batch", 32) * (BACKWARD + 1) for each in taught)
    passes += SCORINGS * (len(steps) + 1) * pictures.held_out
    guided = 2 if facts.model is not None and facts.model.sampler.cfg_scale != 1 else 1
    drawings = draft.bench["repeats"] * sum(draft.bench["batch"]) * guided * (len(steps) + 1) * MODELS
    if facts.config is not None and facts.config.drawing.masks and facts.model is not None:
        drawings *= facts.model.sampler.steps  # each reads the whole picture
    fixed = ROUND_SHARE * draft.bench["repeats"] * len(steps) / 6
    work = once * (passes + drawings)
    weights = facts.parameters * BYTES_PER_WEIGHT / MIB
    logits = SCORED_SIDES * pictures.held_out * length * predicted * BYTES_PER_WEIGHT / MIB
    low = HELD_MIB + (GRAPH_COPIES + 1) * weights + logits
    return Cost(
        weights_of(facts, steps),
        (low, SPREAD * low),
        (fixed / SPREAD + work / (speed * EFFICIENCY[0]), fixed * SPREAD + work / (speed * EFFICIENCY[1])),
    )


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
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        left, best = torch.ones(SIDE, SIDE), math.inf
        for _ in range(TRIES):
            started = time.perf_counter()
            left @ left
            best = min(best, time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)
    return 2.0 * SIDE**3 / best
