"""A target is what graphs are exported for; each file named for one holds its class, with all that differs for it.

Third parties add theirs through the entry-point group `compress.targets`, whose entries name a subclass of `Target`.
What runs a target's engines is in `export.runtime.deployment`, which knows the names: deploying needs nothing of this.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from abc import ABC
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import ClassVar

import onnx_ir as ir

from export.building.request import Built
from export.graph.builder import Builder
from export.graph.onnx_model import OnnxModel
from export.rewrites import fusions, static_cache
from export.rewrites.floats import Narrowed, narrowed
from export.rewrites.lowering import QuantizedLayer, dequantized_product, lower, quantized_input
from export.rewrites.tables import QuantizedTable, lower_tables, plain_head, plain_rows
from export.runtime import deployment
from export.runtime.manifest import Cache, Floats
from export.runtime.shape import Shape

STANDARD = ("", "ai.onnx")


class Target(ABC):
    """What a target accepts, and how graphs are made for it. The defaults are those of any runtime of standard ONNX.

    `name` is that of its file or entry point. Operators are of `domains`; each of `rules` yields what a typed decode
    graph breaks. `cache` is how an exported graph keeps keys and values: ``growing``, or ``static``, which gives every
    input a fixed size. `fusions` are those whose result it runs, and `fused_cache` is the cache that `attention`
    leaves. `refusals` say by their names why passes are not for this target, and under ``sampling`` why sampling stays
    outside the graph. `floats` are what its runtime computes in; `float32_operators` are those whose statistics it
    would compute in half precision, so that they stay in float32. `builder` makes what the runtime opens of an
    `OnnxModel` and a `building.request.Request`, in whose folder its graphs lie; it raises `RunnerMissingError` where
    this machine cannot build, `BuildError` where the graph is refused.
    """

    name: ClassVar[str]
    domains: ClassVar[tuple[str, ...]] = STANDARD
    rules: ClassVar[tuple[Callable[[ir.Model], Iterator[str]], ...]] = ()
    cache: ClassVar[Cache] = "growing"
    fusions: ClassVar[tuple[str, ...]] = ("qkv", "gate-up")
    fused_cache: ClassVar[Cache] = "growing"
    refusals: ClassVar[Mapping[str, str]] = {}
    floats: ClassVar[tuple[Floats, ...]] = ("float32", "float16")
    float32_operators: ClassVar[frozenset[str]] = frozenset()
    builder: ClassVar[Callable[..., Built] | None] = None

    def refusal(self, shape: Shape) -> str:
        """Why models of this shape cannot be exported for this target; empty where they can."""
        return ""

    def lowered(self, builder: Builder, layer: QuantizedLayer, x: ir.Value) -> ir.Value:
        """What a quantized layer computes of x (..., K).

        Raises:
            LoweringError: it has no form on this target.
        """
        return dequantized_product(builder, layer, quantized_input(builder, layer, x))

    def table_rows(self, builder: Builder, table: QuantizedTable, ids: ir.Value) -> ir.Value:
        """The rows (..., E) of a quantized table of embeddings.

        Raises:
            LoweringError: it has no form on this target.
        """
        return plain_rows(builder, table, ids)

    def tied_head(self, builder: Builder, table: QuantizedTable, outputs: int, dynamic: bool, x: ir.Value) -> ir.Value:
        """What a head that shares a quantized table computes of x (..., E): (..., `outputs`)."""
        return plain_head(builder, table, outputs, dynamic, x)

    def adapt(self, decode: ir.Model, shape: Shape) -> Cache:
        """Make a traced decode graph one for this target, in place; the cache that it has then.

        Raises:
            LoweringError: a quantized layer has no form on this target.
        """
        lower_tables(decode, self.table_rows, self.tied_head)
        lower(decode, self.lowered)
        if shape.drawing.masks:
            if self.cache == "static":
                static_cache.ask_for_all(decode.graph, shape.length)
            return "none"
        if self.cache == "static":
            static_cache.make_static(decode, shape)
        return self.cache

    def pictures(self, graph: ir.Model) -> ir.Model:
        """The graph of an image decoder or encoder, as it is for this target."""
        return graph


def find(name: str) -> Target:
    """The target of this name.

    Raises:
        ValueError: there is none.
    """
    if name in deployment.OWN:
        module = importlib.import_module(f"{__name__}.{name}")
        kinds = [
            each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__
        ]
        (found,) = (each for each in kinds if issubclass(each, Target))
        return found()
    for entry in importlib.metadata.entry_points(group=deployment.TARGETS, name=name):
        added: Target = entry.load()()
        return added
    raise ValueError(f"no target is called {name!r}; known: {', '.join(deployment.names())}")


def in_floats(model: OnnxModel, floats: Floats, layers: Collection[str] = ()) -> Narrowed:
    """A float32 model in what its graphs are to compute in, but for these layers; what its target needs stays wide."""
    return narrowed(model, floats, find(model.manifest.target).float32_operators, layers)


def fuse(model: OnnxModel, only: Sequence[str] = ()) -> fusions.Fused:
    """The fusions called `only`, or all that the model's target runs, applied to a copy of the model.

    Raises:
        FusionError: one of `only` is not for this target, or matched nothing.
    """
    target = find(model.manifest.target)
    return fusions.fuse(model, target.fusions, target.fused_cache, only)
