"""Build the plans of all graphs of an engine, with the builder that is asked for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from export.building import BuildError, classic, process
from export.building.evidence import evidence
from export.building.layers import LayersError, layers
from export.building.precisions import Precision, refusals, used, usual
from export.building.profiles import Profile, decode_sizes, other_sizes, profiles
from export.building.request import Builder, Built, Cost, Request
from export.graph.inference import inferred, without_weights
from export.graph.onnx_model import FILES, OnnxModel
from export.runtime.built import Build, BuiltPart
from export.runtime.errors import RunnerMissingError

NEEDED = "decode"  # an engine without its plan is not built; of the others the report says why not
NOT_BUILT = ("generate",)  # a whole generation in one graph is for ONNX Runtime
TIMING_CACHE = "timing.cache"


@dataclass(frozen=True)
class Part:
    """A plan with the record of it, and what it took."""

    plan: bytes
    record: BuiltPart
    cost: Cost
    warnings: tuple[str, ...] = ()


def chosen(asked: str, *, for_capabilities: bool, for_classic: bool) -> Builder:
    """The builder where ``auto`` is asked for: the one that the other settings are for, else the one that is here.

    The classic TensorRT builds for the device that it finds, so it comes first where it finds one.
    """
    if asked == "tensorrt-rtx" or (asked == "auto" and for_capabilities):
        return "tensorrt-rtx"
    if asked == "tensorrt" or for_classic or not classic.missing():
        return "tensorrt"
    return "tensorrt-rtx"


def machine(builder: Builder) -> dict[str, str]:
    """What decides a plan besides its graph and the settings: a version, and of the classic TensorRT the device."""
    if builder == "tensorrt-rtx":
        return {"builder": builder, "version": process.installed() or process.missing()}
    try:
        version, device = classic.machine()
    except RunnerMissingError as error:
        return {"builder": builder, "version": str(error)}
    return {"builder": builder, "version": version, "device": device}


def build(model: OnnxModel, request: Request) -> Built:
    """The plans of an engine whose graphs lie in the request's folder under the names of `FILES`.

    Raises:
        RunnerMissingError: the builder is not here.
        BuildError: the decode graph is refused, a capability lacks what a graph computes with, or a builder's log does
            not show how a plan computes.
    """
    if request.builder == "tensorrt":
        version, device = classic.machine()
    else:
        version, device = process.installed(), ""
        if not version:
            raise RunnerMissingError(process.missing())
    graphs = {name: graph for name, graph in model.graphs.items() if name not in NOT_BUILT}
    capabilities = capabilities_of(graphs, request) if request.builder == "tensorrt-rtx" else ()
    parts: dict[str, Part] = {}
    not_built: dict[str, str] = {}
    for name, graph in graphs.items():
        try:
            parts[name] = part(name, graph, model, request, capabilities)
        except BuildError as error:
            if name == NEEDED:
                raise
            not_built[name] = str(error)
    record = Build(
        builder=request.builder,
        version=version,
        capabilities=capabilities,
        device=device,
        rows=request.rows.sizes,
        parts={name: each.record for name, each in parts.items()},
        not_built=not_built,
    )
    return Built(
        plans={name: each.plan for name, each in parts.items()},
        record=record,
        costs={name: each.cost for name, each in parts.items()},
        warnings=tuple(dict.fromkeys(text for each in parts.values() for text in each.warnings)),
    )


def capabilities_of(graphs: Mapping[str, ir.Model], request: Request) -> tuple[str, ...]:
    """The capabilities that all graphs are built for.

    Raises:
        BuildError: one that was asked for lacks what a graph computes with.
    """
    formats: dict[Precision, str] = {}
    for name, graph in graphs.items():
        for precision, node in used(inferred(without_weights(graph))).items():
            formats.setdefault(precision, f"{node} of {name}")
    if not request.capabilities:
        return usual(formats)
    for reason in refusals(formats, request.capabilities):
        raise BuildError(reason)
    return request.capabilities


def part(name: str, graph: ir.Model, model: OnnxModel, request: Request, capabilities: tuple[str, ...]) -> Part:
    """The plan of one graph.

    Raises:
        BuildError: it is refused, or nothing shows how it computes.
    """
    sizes = decode_sizes if name == NEEDED else other_sizes
    asked = profiles(graph.graph, sizes(model.manifest.shape, request.rows))
    if request.builder == "tensorrt":
        return classic_part(name, asked, request)
    path = request.folder / FILES[name]
    answer = process.build(path, asked, [capabilities], request.seconds)
    for refusal in answer.unparsed:
        where = f"{refusal.node} ({refusal.operator}): " if refusal.node else ""
        raise BuildError(f"the parser of TensorRT for RTX {answer.version} refuses {path.name}: {where}{refusal.text}")
    (attempt,) = answer.attempts
    if attempt.plan is None:
        raise BuildError(f"TensorRT for RTX {answer.version} refuses {path.name}: {attempt.refused}")
    try:
        shown = evidence(graph.graph, layers(attempt.layers), [profile.name for profile in asked])
    except LayersError as error:
        raise BuildError(
            f"{path.name} was built by TensorRT for RTX {answer.version}, but {error}; this version of compress reads "
            f"the log of 1.7.1"
        ) from error
    cost = Cost(attempt.seconds, attempt.processor_seconds, attempt.peak_mib)
    return Part(attempt.plan, BuiltPart(len(attempt.plan), shown), cost, attempt.warnings)


def classic_part(name: str, asked: list[Profile], request: Request) -> Part:
    """The plan of one graph, by the classic TensorRT, which says nothing of how it computes."""
    started, processor = time.monotonic(), time.process_time()
    plan = classic.build(
        request.folder / FILES[name],
        asked,
        request.folder / TIMING_CACHE,
        optimization_level=request.optimization_level,
        workspace_mib=request.workspace_mib,
    )
    cost = Cost(time.monotonic() - started, time.process_time() - processor, 0.0)
    return Part(plan, BuiltPart(len(plan)), cost)
