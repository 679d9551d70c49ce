"""Remove heads and feed-forward units wherever they matter least, until a share of parameters or of time is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from calibration.tokens import TokenSet
from compress.core.settings import MOST_BATCH, MOST_THREADS, MOST_WIDTH, setting
from compress.measure.speed.environment import environment
from compress.models.image_model import ImageModel
from compress.models.transformer.architecture import LayerConfig
from compress.models.transformer.model import TokenTransformer
from compress.models.transformer.quantized import parameter_count
from compress.passes import Context, Notes, Outcome, PassError, TorchPass
from compress.passes.shared.allocation import Piece, Size, cheapest, group_sizes, left, removable
from compress.passes.shared.head_norm import stretched
from compress.passes.shared.importance import group_masks, taylor
from compress.passes.shared.pruning import HEADS, UNITS, Structure, check_float, check_units, keep_groups
from compress.passes.shared.repair import REPAIR, RepairNotes, kept_bytes, repaired
from compress.passes.shared.step_times import Deployment, StepTimes, drawn, measured

AFTER, BEFORE = "after", "before"


@dataclass(frozen=True, kw_only=True)
class LatencyNotes:
    """What the time of a step was expected to become, and became, on the machine that the table is from."""

    machine: str = setting(doc="processor and cores that were timed on")
    format: str = setting(doc="format of the products")
    batch: int = setting(doc="pictures drawn at once")
    threads: int = setting(doc="threads of ONNX Runtime")
    step_ms: float = setting(doc="a step of the fused engine before, milliseconds")
    predicted: float = setting(doc="share of that time that the table gives what is left")
    measured: float = setting(doc="share that the fused engine of what is left took, interleaved with the one before")
    measured_ci95: tuple[float, float] = setting(doc="its interval")
    table: dict[str, float] = setting(
        doc="milliseconds of a layer's part by its heads or units, those between are interpolated; and of the rest"
    )


@dataclass(frozen=True, kw_only=True)
class TargetNotes(Notes):
    """What is left where."""

    parameters: float = setting(doc="share of the parameters that is left")
    heads_per_layer: tuple[int, ...] = setting(doc="key/value heads that each layer keeps")
    units_per_layer: tuple[int, ...] = setting(doc="feed-forward units that each layer keeps")
    repair: RepairNotes | None = setting(None, doc="what the repair won")
    latency: LatencyNotes | None = setting(None, doc="times, where they were asked for")


@dataclass(frozen=True)
class PruneTo(TorchPass):
    """Remove the heads and units that cost least for what they free, of all layers together, until so much is left.

    What a group costs is the expected rise of NLL, as `score: taylor` of `prune-heads` and `prune-ffn`. What it frees
    are its parameters, or the time of a step: by a table of what layers take with fewer heads and units in fused
    engines of ONNX Runtime, measured on this machine, as in NetAdapt (arXiv 1804.03230). The machine decides by its
    table alone, and is part of the artifact's key.
    """

    parameters: float = setting(0.0, doc="share of the parameters to keep; give either this or latency", low=0, high=1)
    latency: float = setting(0.0, doc="share of a step's time on this machine to keep", low=0, high=1)
    format: Literal["float32", "int8"] = setting("float32", doc="what products are timed in, for latency")
    batch: int = setting(0, doc="pictures drawn at once, for latency; 0: the recipe's smallest", low=0, high=MOST_BATCH)
    threads: int = setting(0, doc="threads, for latency; 0: the recipe's", low=0, high=MOST_THREADS)
    multiple: int = setting(
        32, doc="units go so that a layer keeps a multiple of this; kernels like whole blocks", low=1, high=MOST_WIDTH
    )
    repair: bool = setting(True, doc=REPAIR)

    @property
    def takes_times(self) -> bool:
        """Where a share of the time is to be kept."""
        return bool(self.latency)

    def validate(self) -> None:
        """Refuse both targets, and neither."""
        if bool(self.parameters) == bool(self.latency):
            raise ValueError(
                f"parameters {self.parameters:g} and latency {self.latency:g}: give exactly one of them, above 0"
            )

    def timed_as(self, threads: int, batch: int) -> Self:
        """The recipe's threads and batch, where none are given."""
        if not self.latency:
            return self
        return replace(self, threads=self.threads or threads, batch=self.batch or batch)

    def environment(self) -> dict[str, str]:
        """The machine, where its times decide."""
        return {"machine": machine()} if self.latency else {}

    @property
    def structures(self) -> tuple[tuple[Structure, int], ...]:
        """What goes, and how many of it together."""
        return (HEADS, 1), (UNITS, self.multiple)

    @property
    def deployment(self) -> Deployment:
        """How the model is going to run."""
        return Deployment(self.format, self.batch or 1, self.threads or 2)

    def requires(self, model: ImageModel) -> None:
        """Refuse a quantized model, and a share of the parameters that cannot be reached."""
        check_float(model, self.name)
        check_units(model, self.name)
        if self.latency:
            return
        layers = model.transformer.config.layers
        unscored = [[torch.zeros(structure.count(layer)) for layer in layers] for structure, _ in self.structures]
        spare = sum(piece.frees for piece in removable(self.structures, unscored, self.weights(model.transformer)))
        self.check_reached("parameters", "of them", self.parameters, 1 - spare / model.parameters())

    def check_reached(self, name: str, what: str, share: float, least: float) -> None:
        """Refuse a share that cannot be reached.

        Raises:
            PassError: says which can.
        """
        if share < least:
            raise PassError(
                f"{name} {share:g} cannot be reached: with one head and {self.multiple} units in each layer "
                f"{least:.2f} {what} are left; use at least {int(least * 100 + 1) / 100:g}, or prune-layers too"
            )

    def weights(self, transformer: TokenTransformer) -> Size:
        """Parameters of so many groups of a structure in a layer."""
        sizes = [group_sizes(transformer, structure) for structure, _ in self.structures]
        return lambda number, layer, count: sizes[number][layer] * count

    def apply(self, model: ImageModel, context: Context) -> Outcome[ImageModel]:
        """The model without those groups.

        Raises:
            PassError: a share of the time that cannot be reached.
        """
        transformer, layers = model.transformer, model.transformer.config.layers
        scores = self.scores(transformer, context)
        if self.latency:
            times = self.times(model, context)
            total, size = times.of(layers), sizes_in_time(times, layers)
            wanted = (1 - self.latency) * total
        else:
            total, size = parameter_count(transformer), self.weights(transformer)
            wanted = total - int(self.parameters * total)
        pieces = removable(self.structures, scores, size)
        if self.latency:
            spare = sum(piece.frees for piece in pieces if piece.frees > 0)
            self.check_reached("latency", "of a step's time", self.latency, 1 - spare / total)
        pruned, heads, units = self.without(transformer, cheapest(pieces, wanted), context.calibration_tokens())
        made = model.with_transformer(pruned)
        notes = TargetNotes(
            parameters=round(parameter_count(pruned) / parameter_count(transformer), 4),
            heads_per_layer=heads,
            units_per_layer=units,
            repair=repaired(pruned, transformer, context) if self.repair else None,
            latency=self.compared(model, made, times, context) if self.latency else None,
        )
        return Outcome(made, notes)

    def scores(self, transformer: TokenTransformer, context: Context) -> tuple[list[Tensor], list[Tensor]]:
        """What each head and each unit costs, for each layer."""
        masks = [mask for structure, _ in self.structures for mask in group_masks(transformer, structure)]
        scores, layers = taylor(transformer, masks, context.calibration_tokens(), context.report), len(masks) // 2
        return scores[:layers], scores[layers:]

    def without(
        self, transformer: TokenTransformer, gone: Sequence[Piece], tokens: TokenSet
    ) -> tuple[TokenTransformer, tuple[int, ...], tuple[int, ...]]:
        """The transformer without these pieces, and how many heads and units each layer keeps."""
        heads, units = (
            left([structure.count(layer) for layer in transformer.config.layers], gone, number)
            for number, (structure, _) in enumerate(self.structures)
        )
        pruned = keep_groups(transformer, HEADS, heads)
        if self.repair:
            pruned = stretched(transformer, pruned, heads, tokens)
        return keep_groups(pruned, UNITS, units), tuple(map(len, heads)), tuple(map(len, units))

    def times(self, model: ImageModel, context: Context) -> StepTimes:
        """The table of this machine, with the rest of a step of the model's engine."""
        config = model.transformer.config
        step_ms = drawn({BEFORE: model}, self.deployment, context).median_ms(BEFORE).value
        return measured(config, model.sampler, self.deployment).beside(config.layers, step_ms)

    def compared(self, before: ImageModel, after: ImageModel, times: StepTimes, context: Context) -> LatencyNotes:
        """What the table says of the pruned model's step, and what engines of both say."""
        timings = drawn({BEFORE: before, AFTER: after}, self.deployment, context)
        faster = timings.speedup(AFTER, BEFORE)
        return LatencyNotes(
            machine=machine(),
            format=self.format,
            batch=self.deployment.batch,
            threads=self.deployment.threads,
            step_ms=round(timings.median_ms(BEFORE).value, 4),
            predicted=round(times.of(after.transformer.config.layers) / times.of(before.transformer.config.layers), 4),
            measured=round(1 / faster.value, 4),
            measured_ci95=(round(1 / faster.high, 4), round(1 / faster.low, 4)),
            table=times.table(),
        )

    def rehearsal(self) -> tuple[Self, float]:
        """All but the removal: a copy of two layers consists of other things than layers for its larger part."""
        return replace(self, parameters=1.0, latency=0.0), 1.0

    def keeps(self, reference: ImageModel, tokens: TokenSet, calibration: int) -> int:
        """The streams of a repair."""
        return kept_bytes(reference.transformer, calibration) if self.repair else 0


def sizes_in_time(times: StepTimes, layers: Sequence[LayerConfig]) -> Size:
    """Milliseconds of so many groups of a structure in a layer: heads, then units."""
    return lambda number, layer, count: times.units(count) if number else times.attention(layers[layer], count)


def machine() -> str:
    """This machine by its processor and cores."""
    here = environment()
    return f"{here.cpu}, {here.cores} cores"
