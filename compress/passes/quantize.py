"""Keep the weights in few bits, and round activations where asked; linear layers become quantized ones."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Self

from torch import nn

from calibration.tokens import TokenSet
from compress.core.settings import MOST_WIDTH, setting
from compress.models.image_model import ImageModel
from compress.models.transformer.embedding import EmbeddingQuantization, QuantizedEmbedding
from compress.models.transformer.model import TokenTransformer
from compress.models.transformer.quantized import (
    DEFAULT_BLOCK,
    Activations,
    LinearQuantization,
    Weights,
    quantizations,
)
from compress.passes import REDUCE_RANGE, Context, Outcome, PassError, ReduceRangeSetting, TorchPass
from compress.passes.shared.alone import scored_pictures
from compress.passes.shared.assigner import Assignment
from compress.passes.shared.assigning import TOGETHER, assigned, check_bytes
from compress.passes.shared.blockwise import stream_bytes
from compress.passes.shared.budget import Budget
from compress.passes.shared.embedding_format import Embedding, embedding_format
from compress.passes.shared.format_names import format_called, name_of
from compress.passes.shared.formats import Override, check_together, exactly, kept, matched, overridden
from compress.passes.shared.quantize_notes import QuantizeNotes, notes_of
from compress.passes.shared.quantizing import HEAD, Work, looks_at, sharing_copy
from compress.passes.shared.rounding import Ranges
from export.runtime.manifest import Cpu
from export.targets.onnxruntime import TWO_BIT_GROUPS

DOWN = ".ffn.down"
DOWN_GROUP = 64  # of 16 to 128 none is measurably better, and kernels are as fast
FINER = LinearQuantization("int8", "int8", dynamic=True, group=DOWN_GROUP)
CHOOSING = 4.0  # times as long as rounding each layer once is what one format of all takes to be judged, about
DYNAMIC = frozenset({"onnxruntime"})  # targets with a kernel for products whose inputs are scaled as they come


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
    the table of embeddings is what that is. ``embedding: int4`` has the groups and zero points of the weights, as far
    as groups divide rows.

    With ``assign: auto`` each layer gets the one of several `formats` that keeps a `budget` together with the others:
    what each adds to the KL alone is measured on validation pictures, an integer program chooses (as in HAWQ-V3, arXiv
    2011.10680), and what it chose is made and measured (`shared/assigning.py`). Products that engines compute as one
    get one format; layers that `keep`, `override`, or a `head` of float or int8 decide are left to these.
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
    embedding: Embedding = setting(
        "none", doc="format of the table of embeddings; int4 in groups and with zero points as the weights"
    )
    keep: tuple[str, ...] = setting((), doc="patterns of layers that stay in float")
    override: dict[str, Override] = setting(dict, doc="patterns of layers, and what is different for them")
    assign: Literal["none", "auto"] = setting("none", doc="auto: choose the format of each layer by what it costs")
    budget: Budget = setting(Budget(), doc="what the chosen formats have to keep: kl, bytes or size")
    formats: tuple[str, ...] = setting(
        (), doc="formats to choose from, by name; none given: int2, int4 and int8 as the other settings say, and float"
    )

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
        given = self.budget.given
        if self.assign == "none" and (given or self.formats):
            raise ValueError(f"{'budget' if given else 'formats'} is for assign: auto")
        if self.assign == "auto" and len(given) != 1:
            raise ValueError(f"budget has {', '.join(given) or 'nothing'}; give it one of kl, bytes and size")
        self.choice()

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
        if made.assign == "auto" and not made.formats and not DYNAMIC.issuperset(targets):
            # Only onnxruntime has kernels for two bits.
            named = [name_of(spec) for spec in made.choice() if spec is None or spec.weights != "int2"]
            made = replace(made, formats=tuple(named))
        return made

    def choice(self) -> tuple[LinearQuantization | None, ...]:
        """What each layer may be, but for those that settings or patterns name; None is float.

        Raises:
            ValueError: a name is none, or two do not go together in one engine.
        """
        if not self.formats:
            return (*self.of_fewer_bits(), None)
        made = [format_called(name, "formats") for name in dict.fromkeys(self.formats)]
        check_together({name_of(spec): spec for spec in made if spec is not None})
        return tuple(made)

    def of_fewer_bits(self) -> Iterator[LinearQuantization]:
        """The formats of all layers with as many bits and with fewer, where there are kernels."""
        plain = self.spec()
        weights: tuple[Weights, ...] = ("fp8",) if self.weights == "fp8" else ("int2", "int4", "int8")
        for each in weights:
            with contextlib.suppress(ValueError):
                made = replace(plain, weights=each, reduce_range=False)
                if each != "int2" or not made.dynamic or (made.group or DEFAULT_BLOCK) in TWO_BIT_GROUPS:
                    yield made

    def candidates(self, transformer: TokenTransformer) -> dict[str, tuple[LinearQuantization | None, ...]]:
        """The formats that each linear layer may get, in order of execution; those that stay in float are left out.

        Raises:
            PassError: as of `specs`.
        """
        specs, choice = self.specs(transformer), self.choice()
        decided = {name for pattern in self.override for name in matched(pattern, [*specs], "override")}
        found: dict[str, tuple[LinearQuantization | None, ...]] = {}
        for name, spec in specs.items():
            own = choice
            if name in decided or (name == HEAD and self.head == "int8"):
                own = (spec,)
            elif name == HEAD and self.head == "auto":
                own = tuple(each for each in choice if each is None or not each.static)
            elif name.endswith(DOWN) and self.down != "same":
                own = tuple(FINER if each is not None and each.weights == "int8" and each.static else each
                            for each in choice)  # fmt: skip
            found[name] = tuple(None if each is None else self.in_range(each) for each in own)
        return found

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
            specs |= {name: FINER for name in specs if name.endswith(DOWN)}
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
            PassError: as of `embedding_format`.
        """
        return embedding_format(
            transformer, self.embedding, self.head, self.dynamic, group=self.group, symmetric=self.symmetric
        )

    def by_outputs(self, specs: Mapping[str, LinearQuantization]) -> set[str]:
        """The layers whose weights are rounded so that outputs change least."""
        if self.rounding == "auto":
            return {name for name, spec in specs.items() if not (spec.weights == "int8" and self.dynamic)}
        return set(specs) if self.rounding == "gptq" else set()

    @property
    def may_saturate(self) -> bool:
        """Of full-range weights with static activations, of any layer."""
        plain = self.spec()
        specs = [plain, *(override.applied(plain) for override in self.override.values())]
        return self.reduce_range is False and any(spec.weights == "int8" and spec.static for spec in specs)

    def requires(self, model: ImageModel) -> None:
        """Refuse a model that is quantized already, has no head to quantize, or has no layer of a pattern."""
        if already := quantizations(model.transformer):
            raise PassError(f"the model has {len(already)} quantized layers already; quantize once")
        self.specs(model.transformer)
        self.table(model.transformer)
        if self.assign == "auto":
            check_bytes(model.transformer, self.candidates(model.transformer), self.budget)

    def apply(self, model: ImageModel, context: Context) -> Outcome[ImageModel]:
        """The model with quantized layers.

        Raises:
            PassError: its activations hold NaN or Inf, `rounding: gptq` has too few pictures, or no formats keep the
                budget.
        """
        return self.quantized(model, context) if self.assign == "none" else self.assigned(model, context)

    def quantized(self, model: ImageModel, context: Context) -> Outcome[ImageModel]:
        """The model with layers in the formats of `specs`."""
        transformer = sharing_copy(model.transformer)
        specs, table = self.specs(transformer), self.table(transformer)
        if not specs and table is None:
            raise PassError("keep leaves no layer to quantize, and the embedding stays too; keep less")
        ranges = Ranges(self.ranges, self.percentile)
        work = Work(transformer, specs, ranges, self.by_outputs(specs), context, demanded=self.rounding == "gptq")
        work.run()
        if table is not None:
            assert isinstance(transformer.embedding, nn.Embedding)
            transformer.embedding = QuantizedEmbedding.of(transformer.embedding, table)
        return Outcome(model.with_transformer(transformer), notes_of(work))

    def assigned(self, model: ImageModel, context: Context) -> Outcome[ImageModel]:
        """The model with layers in formats that keep the budget."""
        made, chosen = assigned(
            model, context, self.candidates(model.transformer), self.budget, Ranges(self.ranges, self.percentile),
            self.by_outputs, lambda assignment: self.with_formats(assignment).quantized(model, context),
            self.rounding, self.ranges, self.percentile, self.dynamic,
        )  # fmt: skip
        assert isinstance(made.notes, QuantizeNotes)
        return replace(made, notes=replace(made.notes, assigned=chosen))

    def with_formats(self, assignment: Assignment) -> Self:
        """The same with the format of each layer decided, by the settings that a recipe would say them with."""
        floats = tuple(name for name, spec in assignment.items() if spec is None)
        given = {name: exactly(spec) for name, spec in assignment.items() if spec is not None}
        kept_too = (*self.keep, *floats)
        return replace(self, keep=kept_too, override=self.override | given, assign="none", budget=Budget(), formats=())

    def rehearsal(self) -> tuple[Self, float]:
        """The same, where it needs more pictures than a rehearsal has, in formats that need no choosing."""
        once = replace(self, rounding="auto") if self.rounding == "gptq" else self
        if self.assign == "none":
            return once, 1.0
        return replace(once, assign="none", budget=Budget(), formats=()), CHOOSING * len(self.choice())

    def keeps(self, reference: ImageModel, tokens: TokenSet, calibration: int) -> int:
        """The streams of the calibration pictures, where layers are looked at, and of those that formats are judged by.

        Of the latter there are two, of what the model predicts and of what it is becoming.
        """
        transformer, specs = reference.transformer, self.specs(reference.transformer)
        kept = stream_bytes(transformer, calibration) if looks_at(specs, self.by_outputs(specs)) else 0
        if self.assign == "auto":
            kept += 2 * stream_bytes(transformer, len(scored_pictures(tokens, TOGETHER)))
        return kept
