"""What the builder of an engine's plans says of how they compute: no GPU is needed to know it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.core.settings import setting
from compress.measure.measure import Measure
from compress.measure.promise import Broken
from compress.measure.quantity import Limit, quantity

if TYPE_CHECKING:
    from compress.measure.subject import Subject
    from export.runtime.built import Build

STEPS = "decode"  # the graph that runs at every step
NAMED = 3  # products that a breach names


@dataclass(frozen=True)
class PlanOfGraph:
    """How one graph is computed within one profile of its plan."""

    graph: str = setting(doc="the graph: decode, image_decoder, ...")
    profile: str = setting(doc="the calls: step, prefill, or whole")
    kernels: int = setting(doc="kernels of a call", low=0)
    products: dict[str, int] = setting(doc="matrix products and convolutions by the types of their operands")
    asked: int = setting(doc="products that the graph wants in low precision", low=0)
    low: int = setting(doc="of these, the ones that read operands of low precision", low=0)
    unpacked: int = setting(doc="kernels that only turn weights to float, at every call", low=0)
    attentions: int = setting(doc="attentions", low=0)
    fused: int = setting(doc="of these, the ones that are one kernel", low=0)
    caches: int = setting(doc="keys and values of layers", low=0)
    in_place: int = setting(doc="of these, the ones that are updated where they lie", low=0)


@dataclass(frozen=True)
class Plans(Measure):
    """The kernels of built plans, by the builder's own list; whether a GPU then runs them fast is not known."""

    name = "plans"
    stage = "engines"
    promises = ("low_precision_products",)
    title = "Built plans"

    builder: str = setting(doc="what built them, with its version")
    capabilities: tuple[str, ...] = setting(doc="compute capabilities that they are for")
    parts: tuple[PlanOfGraph, ...] = setting(doc="every graph and profile")
    in_float: tuple[str, ...] = setting(doc="products that are quantized in the graphs and computed in float")
    low_precision_products: float | None = quantity(
        doc="share of the quantized products that a plan computes in low precision; null if there are none",
        unit="percent",
        better="higher",
        column="products as asked %",
        gate=Limit(
            "low_precision_products",
            "least share of the quantized products that a plan computes in low precision",
            high=1,
        ),
    )
    fused_attention: float | None = quantity(
        doc="share of the attentions of a step that are one kernel; null if there are none",
        unit="percent",
        better="higher",
        column="fused attention %",
        gate=Limit("fused_attention", "least share of the attentions of a step that are one kernel", high=1),
    )
    caches_in_place: float | None = quantity(
        doc="share of the caches that a step updates where they lie; null if there are none",
        unit="percent",
        better="higher",
        column="caches in place %",
        gate=Limit("caches_in_place", "least share of the caches that a step updates where they lie", high=1),
    )
    unpacked: int = quantity(
        doc="weights that a step turns to float by kernels of their own", column="unpacked weights"
    )
    kernels: int = quantity(doc="kernels of a step", column="kernels")
    plan_mib: float = quantity(doc="size of the plan of a step", unit="MiB", column="plan MiB")

    @classmethod
    def applies(cls, subject: Subject) -> bool:
        """Engines whose plans come with evidence."""
        build = build_of(subject)
        return build is not None and STEPS in build.parts and bool(build.parts[STEPS].evidence)

    @classmethod
    def depends(cls, subject: Subject) -> tuple[Any, ...]:
        """The candidate, whose manifest holds it."""
        return (subject.candidate.key,)

    @classmethod
    def run(cls, subject: Subject) -> Plans:
        """Read the manifest."""
        build = build_of(subject)
        assert build is not None
        return of(build)

    def broken(self) -> Iterator[Broken]:
        """Who asks for INT8 and gets float is told, with or without a gate."""
        share = self.low_precision_products
        if share is not None and share < 1:
            named = ", ".join(self.in_float[:NAMED]) + (", ..." if len(self.in_float) > NAMED else "")
            text = (
                f"{self.builder} computes {len(self.in_float)} quantized products in float ({named}), so they win no "
                f"time; leave them out of the quantization, or see docs/tensorrt.md for what stays in low precision"
            )
            yield Broken("low_precision_products", share, 1.0, text)


def build_of(subject: Subject) -> Build | None:
    """The record of the build in the candidate's manifest."""
    engine = subject.candidate.engine
    return None if engine is None else engine.manifest.build


def of(build: Build) -> Plans:
    """What a record of a build says."""
    parts, in_float = [], []
    for graph, part in build.parts.items():
        for each in part.evidence:
            in_float += [f"{name} of {graph}" for name in each.in_float]
            parts.append(
                PlanOfGraph(
                    graph,
                    each.profile,
                    each.kernels,
                    each.products,
                    each.asked,
                    each.low,
                    each.unpacked,
                    each.attentions,
                    each.fused,
                    each.caches,
                    each.in_place,
                )
            )
    steps = [each for each in parts if each.graph == STEPS]
    return Plans(
        builder=build.made_by,
        capabilities=build.capabilities,
        parts=tuple(parts),
        in_float=tuple(dict.fromkeys(in_float)),
        low_precision_products=share([(each.low, each.asked) for each in parts]),
        fused_attention=share([(each.fused, each.attentions) for each in steps]),
        caches_in_place=share([(each.in_place, each.caches) for each in steps]),
        unpacked=steps[0].unpacked,
        kernels=steps[0].kernels,
        plan_mib=build.parts[STEPS].plan_bytes / 2**20,
    )


def share(found: list[tuple[int, int]]) -> float | None:
    """So many of so many, over all; None of nothing."""
    some, whole = (sum(counts) for counts in zip(*found, strict=True))
    return some / whole if whole else None


def types_of(parts: tuple[PlanOfGraph, ...]) -> str:
    """The products of a step by their operands, in words."""
    counts = Counter(next(each.products for each in parts if each.graph == STEPS))
    return ", ".join(f"{count} {types}" for types, count in counts.most_common())
