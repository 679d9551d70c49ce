"""What a step of drawing takes on this machine: a table of its parts by their sizes, and whole engines.

Letters: D width, H query heads, K key/value heads, d head width, F feed-forward units, R rows of a step.

A layer's attention (its products, joined as engines join them, and the attention itself) is timed at some numbers of
heads, its feed-forward network at some numbers of units. Between these, times are interpolated. More never takes less:
what noise says otherwise is set right by isotonic regression. What an engine's step takes beyond the table is its rest
(norms, embedding, head, the choice of tokens), which stays when heads and units go.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.optimize import isotonic_regression

from compress.measure.speed import attention, kernels
from compress.measure.speed.attention import Attention
from compress.measure.speed.kernels import Kernel
from compress.measure.speed.timing import Timings, paired
from compress.models.candidate import open_engine
from compress.models.image_model import ImageModel
from compress.models.transformer.architecture import GATED, LayerConfig, TransformerConfig
from compress.models.transformer.quantized import LinearQuantization
from compress.passes import Context
from compress.passes.export import Export
from compress.passes.fuse import Fuse
from compress.passes.quantize import DOWN_GROUP, Quantize
from export.runtime.drawing import conditions
from export.runtime.engine import Engine
from export.runtime.sampling import Sampler

TARGET = "onnxruntime"  # the runtime whose kernels are timed
POINTS = 9  # numbers of heads or units that are timed
ROUNDS = 12  # of whole pictures
BUDGET_S = 120.0  # for them
QUIET = 0.1  # the share of a picture's steps that are taken to be undisturbed
STATIC = LinearQuantization("int8", "int8")
FINER = LinearQuantization("int8", "int8", dynamic=True, group=DOWN_GROUP)

Format = Literal["float32", "int8"]


@dataclass(frozen=True)
class Deployment:
    """How a model is going to run: format of its products, pictures at once, threads."""

    format: Format
    batch: int
    threads: int


@dataclass(frozen=True)
class Step:
    """What a step works on: rows of each product, rows of attention, queries of such a row, positions that they see."""

    rows: int
    sequences: int
    queries: int
    positions: int


@dataclass(frozen=True)
class Curve:
    """Milliseconds of a part of a layer by how many heads or units it has, between which it is straight."""

    counts: tuple[int, ...]
    milliseconds: tuple[float, ...]

    def __call__(self, count: int) -> float:
        """Of so many, milliseconds."""
        return float(np.interp(count, self.counts, self.milliseconds))


@dataclass(frozen=True)
class StepTimes:
    """Milliseconds of a step: of attention by key/value heads, of feed-forward networks by units, and of the rest.

    `heads` has a curve for each number of query heads that share a key/value head.
    """

    heads: dict[int, Curve]
    units: Curve
    rest: float = 0.0

    def attention(self, layer: LayerConfig, heads: int) -> float:
        """Of a layer with so many key/value heads."""
        return self.heads[layer.heads // layer.kv_heads](heads)

    def of(self, layers: Sequence[LayerConfig]) -> float:
        """Of a step of a model with these layers."""
        parts = sum(self.attention(layer, layer.kv_heads) + self.units(layer.ffn) for layer in layers)
        return self.rest + parts

    def beside(self, layers: Sequence[LayerConfig], step_ms: float) -> StepTimes:
        """The same with the rest of a step that takes so long with these layers; none where they alone take longer."""
        return replace(self, rest=max(0.0, step_ms - replace(self, rest=0.0).of(layers)))

    def table(self) -> dict[str, float]:
        """All of it by names, rounded to nanoseconds."""
        found = {f"heads {count}": ms for curve in self.heads.values() for count, ms in pairs(curve)}
        found |= {f"units {count}": ms for count, ms in pairs(self.units)}
        return {name: round(ms, 6) for name, ms in (found | {"rest": self.rest}).items()}


def pairs(curve: Curve) -> Iterable[tuple[int, float]]:
    """The points of a curve."""
    return zip(curve.counts, curve.milliseconds, strict=True)


def step_of(config: TransformerConfig, sampler: Sampler, batch: int) -> Step:
    """What a step of drawing so many pictures works on; the mean one, where steps differ."""
    guided = sampler.cfg_scale != 1 and not sampler.guidance_inside
    sequences = batch * (1 + guided)
    if config.drawing.masks:
        positions = config.length // config.patch**2 + config.registers + config.class_token
        return Step(sequences * positions, sequences, positions, positions)
    if config.drawing.scaled:
        ends = np.cumsum([side * side for side in config.scales])
        queries = round(config.length / len(ends))
        return Step(sequences * queries, sequences, queries, max(queries, round(float(ends.mean()))))
    return Step(sequences, sequences, 1, config.prefix + config.length // 2)


def measured(config: TransformerConfig, sampler: Sampler, deployment: Deployment) -> StepTimes:
    """The table for models of this config with as many heads and units or fewer; the rest is 0."""
    step = step_of(config, sampler, deployment.batch)
    static, finer = (None, None) if deployment.format == "float32" else (STATIC, FINER)
    shares = sorted({layer.heads // layer.kv_heads for layer in config.layers})
    most = {share: max(x.kv_heads for x in config.layers if x.heads == share * x.kv_heads) for share in shares}
    width, head = config.width, config.head_width
    heads = {
        (share, count): (
            Kernel(width, (share + 2) * count * head, static, step.rows),
            Kernel(share * count * head, width, static, step.rows),
        )
        for share in shares
        for count in spaced(most[share])
    }
    mixing = {
        (share, count): Attention(share * count, count, head, step.sequences, step.queries, step.positions)
        for share, count in heads
    }
    entries = 2 if config.activation in GATED else 1
    units = {
        count: (Kernel(width, entries * count, static, step.rows), Kernel(count, width, finer, step.rows))
        for count in spaced(max(layer.ffn for layer in config.layers))
    }
    wanted = [kernel for each in (*heads.values(), *units.values()) for kernel in each]
    products = kernels.milliseconds(wanted, deployment.threads)
    mixed = attention.milliseconds(list(mixing.values()), deployment.threads)

    def sum_of(parts: Iterable[Kernel]) -> float:
        return sum(products[part].value for part in parts)

    return StepTimes(
        {
            share: rising({
                count: sum_of(heads[share, count]) + mixed[mixing[share, count]].value
                for other, count in heads if other == share
            })
            for share in shares
        },
        rising({count: sum_of(parts) for count, parts in units.items()}),
    )  # fmt: skip


def spaced(most: int) -> list[int]:
    """A few whole numbers from 1 to `most`, evenly."""
    return sorted({round(count) for count in np.linspace(1, most, min(most, POINTS))})


def rising(times: dict[int, float]) -> Curve:
    """The curve that never falls and is nearest to these times."""
    counts = sorted(times)
    fitted = isotonic_regression([times[count] for count in counts]).x
    return Curve(tuple(counts), tuple(float(each) for each in fitted))


def drawn(models: dict[str, ImageModel], deployment: Deployment, context: Context) -> Timings:
    """Seconds of an undisturbed step of the models' fused engines, which draw in turns; one for each picture.

    What else the machine does makes steps longer, never shorter, and kernels, which are shorter, less often.
    """
    runners: dict[str, StepClock] = {}
    with tempfile.TemporaryDirectory(dir=context.workspace) as room:
        for name, model in models.items():
            folder = Path(room) / name
            folder.mkdir()
            deployed(model, deployment.format, context, folder)
            runners[name] = StepClock(open_engine(folder, deployment.threads), deployment.batch)
        rounds = len(next(iter(paired(runners, ROUNDS, budget_s=BUDGET_S).seconds.values())))
    return Timings({name: tuple(clock.seconds[-rounds:]) for name, clock in runners.items()})


@dataclass
class StepClock:
    """Draws the tokens of a batch at each call, and notes how long a step took."""

    engine: Engine
    batch: int
    seconds: list[float] = field(default_factory=list)

    def __call__(self) -> None:
        """Draw; the steps of scales differ, so their mean counts."""
        moments: list[float] = []
        shape = self.engine.shape
        labels, features = conditions(shape, self.batch)
        begun = time.perf_counter()
        self.engine.draw_tokens(labels, features=features, on_step=lambda: moments.append(time.perf_counter()))
        steps = np.diff([begun, *moments] if shape.drawing.scaled else moments)
        self.seconds.append(float(steps.mean() if shape.drawing.scaled else np.quantile(steps, QUIET)))


def deployed(model: ImageModel, form: Format, context: Context, folder: Path) -> None:
    """Write a model's fused engine, with int8 products where that is the format."""
    if form == "int8":
        rounding = Quantize("int8", "int8", rounding="nearest").deployed_on("any", [TARGET])
        model = rounding.run(model, context).model
    exported = Export(TARGET).run(model, context).model
    Fuse().run(exported, context).model.save(folder)
