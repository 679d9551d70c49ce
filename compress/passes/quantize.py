"""Keep the weights in few bits, and round activations where asked; linear layers become quantized ones."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from calibration.gptq import Gram
from calibration.observe import Magnitudes
from calibration.ranges import one_thread
from calibration.tokens import TokenSet
from compress.core.settings import MOST_WIDTH, setting
from compress.models.image_model import ImageModel
from compress.models.transformer.embedding import EmbeddingQuantization, QuantizedEmbedding, group_of
from compress.models.transformer.model import TokenTransformer
from compress.models.transformer.quantized import (
    Activations,
    LinearQuantization,
    Weights,
    parameter_count,
    quantizations,
    replace_module,
)
from compress.passes import REDUCE_RANGE, Context, Notes, Outcome, PassError, ReduceRangeSetting, TorchPass
from compress.passes.shared.blockwise import Streams, seen_inputs, stream_bytes
from compress.passes.shared.formats import Override, kept, overridden
from compress.passes.shared.rounding import Ranges, round_by_outputs
from export.runtime.manifest import Cpu

HEAD = "head"
DOWN = ".ffn.down"
CONDITIONED = "modulation.linear"  # of a block that the class modulates
DOWN_GROUP = 64  # of 16 to 128 none is measurably better, and kernels are as fast
DYNAMIC = frozenset({"onnxruntime"})  # targets with a kernel for products whose inputs are scaled as they come


@dataclass(frozen=True, kw_only=True)
class QuantizeNotes(Notes):
    """What was quantized, and how far the weights are from what they were."""

    layers: int = setting(doc="layers that are quantized")
    share_of_weights: float = setting(doc="their share of all weights")
    sqnr_db_median: float = setting(doc="signal to quantization noise of a layer's weights, decibels; the median")
    sqnr_db_worst: float = setting(doc="and of the worst layer")
    worst_layer: str = setting(doc="the worst layer")
    float_bytes: dict[str, int] = setting(doc="bytes of what stays in float32, by tensor; those below 0.1 % together")
    rounded: str = setting(doc="how weights were rounded: gptq, or to the nearest code")
    nearest: tuple[str, ...] | None = setting(
        None, doc="layers that gptq left to the nearest code, because they read too few different inputs"
    )
    damped: tuple[str, ...] | None = setting(
        None, doc="layers whose inputs depend on each other linearly, so that gptq's damping chose between codes"
    )


@dataclass(frozen=True)
class Quantize(TorchPass):
    """Keep the weights of the linear layers in few bits, and round their inputs where asked.

    Weights have a scale for each output channel, or for each `group` inputs of it, and a zero point beside it where
    they are not `symmetric`. Static activations have one scale for each layer, from calibration tokens; dynamic ones a
    scale for every token and block of inputs. `ranges` says what the largest code stands for: the absmax, a percentile
    of the magnitudes, or the clip of least squared error. `rounding` says to which code a weight goes: the nearest, or
    the one that changes the layer's outputs least on the calibration tokens (GPTQ, arXiv 2210.17323), block after
    block, each reading what the quantized ones before it give. ``auto`` is gptq, but for int8 weights with dynamic
    activations, which need no calibration otherwise: there activations lose far more than weights.

    ``down: auto`` is dynamic (in groups of `DOWN_GROUP`) where every target of the chain has kernels for that, since a
    few large inputs of ffn.down make one scale for all coarse. ``head: auto`` is int8, but float for tensorrt, which
    would unpack such weights at every step, and beside static activations (`check_together`); a head that is tied to
    the table of embeddings is int8 where that is.
    """

    weights: Weights = setting("int8", doc="format of the weights")
    activations: Activations = setting("none", doc="format of the inputs of the products")
    dynamic: bool = setting(False, doc="scale int8 activations as they come, instead of once by calibration")
    group: int = setting(0, doc="inputs that share a weight scale; 0: all of an output channel", low=0, high=MOST_WIDTH)
    symmetric: bool = setting(True, doc="no zero points; false: each weight scale has one")
    rounding: Literal["auto", "gptq", "nearest"] = setting("auto", doc="to which code a weight is rounded")
    ranges: Literal["absmax", "percentile", "mse"] = setting("mse", doc="how ranges are chosen")
    percentile: float = setting(
        99.9, doc="share of magnitudes inside the range, for ranges: percentile", low=50, high=100
    )
    reduce_range: ReduceRangeSetting = setting("auto", doc=REDUCE_RANGE)
    down: Literal["auto", "same", "dynamic"] = setting(
        "auto", doc="inputs of ffn.down where int8 activations are static: as all, or scaled as they come"
    )
    head: Literal["auto", "float", "int8", "same"] = setting(
        "auto", doc="the head that makes the logits: float, int8 weights alone, or as all layers"
    )
    embedding: Literal["none", "int8", "fp16"] = setting("none", doc="format of the table of embeddings")
    keep: tuple[str, ...] = setting((), doc="patterns of layers that stay in float")
    override: dict[str, Override] = setting(dict, doc="patterns of layers, and what is different for them")

    def validate(self) -> None:
        """Refuse formats that do not go together.

        Raises:
            ValueError: which, and what would.
        """
        spec = self.spec()
        if self.down == "dynamic" and not self.static_int8:
            raise ValueError("down: dynamic is for static int8 activations; leave it at auto")
        for pattern, override in self.override.items():
            try:
                override.applied(spec)
            except ValueError as error:
                raise ValueError(f"override.{pattern}: {error}") from error

    @property
    def static_int8(self) -> bool:
        """Whether int8 activations have calibrated scales."""
        return self.weights == "int8" and self.activations == "int8" and not self.dynamic

    def deployed_on(self, cpu: Cpu, targets: Collection[str]) -> Self:
        """What is ``auto``, as it suits processors and targets."""
        made = super().deployed_on(cpu, targets)
        if made.down == "auto" and made.static_int8:
            made = replace(made, down="dynamic" if DYNAMIC.issuperset(targets) else "same")
        if made.head == "auto" and "tensorrt" in targets:
            # Weights alone in int8 are unpacked at every step there, and static inputs of the head lose much.
            made = replace(made, head="float")
        return made

    def spec(self) -> LinearQuantization:
        """The formats of every layer, but for those that settings or patterns name."""
        return self.in_range(
            LinearQuantization(self.weights, self.activations, self.dynamic, self.group, symmetric=self.symmetric)
        )

    def specs(self, transformer: TokenTransformer) -> dict[str, LinearQuantization]:
        """The formats of each linear layer that is quantized, in order of execution; a tied head is none.

        Raises:
            PassError: a pattern matches nothing, or makes formats that do not go together.
        """
        plain = self.spec()
        specs = {name: plain for name, _ in transformer.linears()}
        if self.static_int8 and self.down != "same":
            finer = LinearQuantization("int8", "int8", dynamic=True, group=DOWN_GROUP)
            specs |= {name: finer for name in specs if name.endswith(DOWN)}
        in_int8 = self.head == "int8" or (self.head == "auto" and not plain.static)
        if not transformer.config.tied_head and (in_int8 or self.head == "same"):
            specs[HEAD] = LinearQuantization("int8") if in_int8 else plain
        floats = kept(self.keep, [*specs])
        specs = overridden({name: spec for name, spec in specs.items() if name not in floats}, self.override)
        check_together(specs)
        return {name: self.in_range(spec) for name, spec in specs.items()}

    def in_range(self, spec: LinearQuantization) -> LinearQuantization:
        """The formats of a layer, with the range of int8 weights that its products need."""
        static = spec.weights == "int8" and spec.static
        stated = spec.weights == self.weights and self.reduce_range != "auto"
        return replace(spec, reduce_range=self.int8_range() if static or stated else False)

    def table(self, transformer: TokenTransformer) -> EmbeddingQuantization | None:
        """How the table of embeddings is kept; None: in float.

        Raises:
            PassError: a tied head cannot share it.
        """
        tied = transformer.config.tied_head
        if tied and self.embedding == "fp16":
            raise PassError("embedding: fp16, but the head is tied to it; use int8 or none")
        if tied and self.embedding == "none" and self.head in ("int8", "same"):
            raise PassError(
                f"head: {self.head}, but the head is tied to the embedding; use embedding: int8, which both share"
            )
        if self.embedding == "none":
            return None
        group = group_of(transformer.embedding.embedding_dim) if tied and self.embedding == "int8" else 0
        return EmbeddingQuantization(self.embedding, group, dynamic=tied and self.head == "same" and self.dynamic)

    def by_outputs(self, spec: LinearQuantization) -> bool:
        """Whether weights are rounded so that outputs change least."""
        if self.rounding == "auto":
            return not (spec.weights == "int8" and self.dynamic)
        return self.rounding == "gptq"

    @property
    def may_saturate(self) -> bool:
        """Of full-range weights with static activations."""
        return self.weights == "int8" and self.spec().static and self.reduce_range is False

    def requires(self, model: ImageModel) -> None:
        """Refuse a model that is quantized already, has no head to quantize, or has no layer of a pattern."""
        if already := quantizations(model.transformer):
            raise PassError(f"the model has {len(already)} quantized layers already; quantize once")
        self.specs(model.transformer)
        self.table(model.transformer)

    def apply(self, model: ImageModel, context: Context) -> Outcome[ImageModel]:
        """The model with quantized layers.

        Raises:
            PassError: its activations hold NaN or Inf, or `rounding: gptq` has too few pictures.
        """
        transformer = sharing_copy(model.transformer)
        work = Work(transformer, self.specs(transformer), self, context)
        work.run()
        if (table := self.table(transformer)) is not None:
            assert isinstance(transformer.embedding, nn.Embedding)
            transformer.embedding = QuantizedEmbedding.of(transformer.embedding, table)
        worst = min(work.ratios, key=lambda name: work.ratios[name])
        total = parameter_count(transformer)
        notes = QuantizeNotes(
            layers=len(work.specs),
            share_of_weights=round(sum(work.counts.values()) / total, 4),
            sqnr_db_median=round(statistics.median(work.ratios.values()), 2),
            sqnr_db_worst=round(work.ratios[worst], 2),
            worst_layer=worst,
            float_bytes=float_bytes(transformer, total),
            rounded="gptq" if work.damped else "nearest",
            nearest=tuple(work.left) or None,
            damped=tuple(name for name, dependent in work.damped.items() if dependent) or None,
        )
        return Outcome(model.with_transformer(transformer), notes)

    def keeps(self, reference: ImageModel, tokens: TokenSet, calibration: int) -> int:
        """The streams of the calibration pictures, where layers are looked at."""
        looked_at = self.looks_at(self.specs(reference.transformer))
        return stream_bytes(reference.transformer, calibration) if looked_at else 0

    def looks_at(self, specs: Mapping[str, LinearQuantization]) -> bool:
        """Whether what layers read has to be seen."""
        return any(spec.static or self.by_outputs(spec) for spec in specs.values())


def check_together(specs: Mapping[str, LinearQuantization]) -> None:
    """Refuse int8 weights with exact inputs beside layers with static ones.

    ONNX Runtime's optimizer, which makes int8 products of the latter, rounds the inputs of the former too.

    Raises:
        PassError: names a layer of each.
    """
    static = next((name for name, spec in specs.items() if spec.static), None)
    alone = next((name for name, spec in specs.items() if spec.weights == "int8" and spec.activations == "none"), None)
    if static and alone:
        raise PassError(
            f"{alone} has int8 weights alone and {static} static activations: onnxruntime would round the inputs of "
            f"both; keep {alone} in float, or give it activations too"
        )


class Work:
    """The layers of one model on their way into few bits, block after block."""

    def __init__(
        self, transformer: TokenTransformer, specs: Mapping[str, LinearQuantization], chosen: Quantize, context: Context
    ) -> None:
        self.transformer, self.specs, self.chosen, self.context = transformer, specs, chosen, context
        self.ranges = Ranges(chosen.ranges, chosen.percentile)
        self.ratios: dict[str, float] = {}  # signal to noise of each layer's weights
        self.counts: dict[str, int] = {}  # and how many they are
        self.damped: dict[str, bool] = {}  # whether that mattered, of the layers that were rounded by their outputs
        self.left: list[str] = []  # those that could not be

    def run(self) -> None:
        """Replace every layer that has a format.

        Raises:
            PassError: activations hold NaN or Inf, or `rounding: gptq` has too few pictures.
        """
        looked_at = self.chosen.looks_at(self.specs)
        streams = Streams(self.transformer, self.context.calibration_tokens()) if looked_at else None
        for index, block in enumerate(self.transformer.blocks):
            prefix = f"blocks.{index}."
            names = [name.removeprefix(prefix) for name in self.specs if name.startswith(prefix)]
            seen = {name: self.seen_of(prefix + name) for name in names}
            if streams is not None:
                streams.watch(block, [name for name in names if name != CONDITIONED], partial(see, seen))
                if CONDITIONED in seen:
                    seen[CONDITIONED].add(self.conditions())
            for name in names:
                self.quantize(prefix + name, seen[name])
            if streams is not None:
                streams.advance(block)
        if HEAD in self.specs:
            seen = {HEAD: self.seen_of(HEAD)}
            if streams is not None:
                with seen_inputs(self.transformer, [HEAD], partial(see, seen)):
                    for _ in streams.logits():
                        pass
            self.quantize(HEAD, seen[HEAD])

    def conditions(self) -> Tensor:
        """All that modulation by class ever reads (rows, D): every class and none, at every position that matters."""
        transformer = self.transformer
        config = transformer.config
        labels = torch.arange(config.classes + 1)
        positions = torch.arange(config.reach if config.modulation == "class-position" else 1)
        with torch.no_grad():
            condition = transformer.conditioned(labels, positions)
        assert condition is not None
        return functional.silu(condition).flatten(0, -2)

    def seen_of(self, name: str) -> Seen:
        """What is to be seen of a layer's inputs."""
        linear, spec = self.transformer.get_submodule(name), self.specs[name]
        assert isinstance(linear, nn.Linear)
        gram = Gram(linear.in_features) if self.chosen.by_outputs(spec) else None
        return Seen(name, Magnitudes() if spec.static else None, gram)

    def quantize(self, name: str, seen: Seen) -> None:
        """Put a quantized layer in place of a float one.

        Raises:
            PassError: as `run` says.
        """
        linear = self.transformer.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        weight = linear.weight.detach()
        with one_thread():
            quantized = self.ranges.quantized(linear, self.specs[name], seen.magnitudes)
        if seen.gram is not None and self.tells_enough(name, seen.gram):
            self.damped[name] = round_by_outputs(quantized, weight, seen.gram)
        with one_thread():
            self.ratios[name] = sqnr_db(weight, quantized.dequantized_rows())
        self.counts[name] = weight.numel()
        replace_module(self.transformer, name, quantized)
        self.context.report(len(self.ratios), len(self.specs), {})

    def tells_enough(self, name: str, gram: Gram) -> bool:
        """Whether a layer's inputs say how its outputs change.

        Of modulation by class they are all that there are. What else reads one vector a picture has seen too few.

        Raises:
            PassError: too few pictures, where `rounding: gptq` is asked for by name.
        """
        pictures = len(self.context.calibration_tokens())
        each, needed = gram.rows // pictures, len(gram.matrix)
        if name.endswith(f".{CONDITIONED}") or (each > 1 and gram.rows >= needed):
            return True
        if each > 1 and self.chosen.rounding == "gptq":
            raise PassError(
                f"rounding: gptq: {name} has {needed} inputs and needs as many rows of them, at least "
                f"{-(-needed // each)} calibration pictures; there are {pictures}: raise tokens.calibration, or use "
                f"rounding: auto"
            )
        self.left.append(name)
        return False


@dataclass(frozen=True)
class Seen:
    """What is kept of the inputs (rows, K) of one layer."""

    name: str
    magnitudes: Magnitudes | None
    gram: Gram | None

    def add(self, x: Tensor) -> None:
        """Look at inputs.

        Raises:
            PassError: they hold NaN or Inf.
        """
        if not bool(torch.isfinite(x).all()):
            raise PassError(f"{self.name}: activations hold NaN or Inf")
        if self.magnitudes is not None:
            self.magnitudes.add(x)
        if self.gram is not None:
            self.gram.add(x)


def see(seen: Mapping[str, Seen], name: str, x: Tensor) -> None:
    """Look at the inputs of the layer of this name."""
    seen[name].add(x)


def float_bytes(transformer: TokenTransformer, total: int) -> dict[str, int]:
    """Bytes of the parameters that stayed in float32, the largest first; those below 0.1 % of all weights together."""
    sizes = {name: 4 * each.numel() for name, each in transformer.named_parameters() if not name.startswith("scales.")}
    large = {name: size for name, size in sizes.items() if size >= 4 * total / 1000}
    rest = sum(sizes.values()) - sum(large.values())
    return dict(sorted(large.items(), key=lambda item: -item[1])) | ({"others": rest} if rest else {})


def sharing_copy(transformer: TokenTransformer) -> TokenTransformer:
    """Modules of their own around the same tensors, so that layers can be replaced without a second copy in memory.

    Nobody changes a model's tensors in place: what is trained is a full copy.
    """
    tensors = (*transformer.parameters(), *transformer.buffers())
    return copy.deepcopy(transformer, {id(each): each for each in tensors})


def sqnr_db(exact: Tensor, rounded: Iterable[Tensor]) -> float:
    """Signal to quantization noise, decibels; of an exact copy 200. What is rounded comes a few rows at a time."""
    signal, noise, start = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64), 0
    for part in rounded:
        rows = exact[start : start + len(part)]
        signal, noise = signal + rows.double().square().sum(), noise + (rows - part).double().square().sum()
        start += len(part)
    return float(torch.clamp(10 * torch.log10(signal / noise), max=200)) if noise > 0 else 200.0
