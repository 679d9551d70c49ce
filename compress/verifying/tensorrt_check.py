"""What TensorRT says of ONNX graphs, node by node: its parser, its builder for each kind of GPU, and the rules here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from compress.core.settings import InputError, setting
from compress.recipe.early import check_capabilities
from export.building import BuildError, process
from export.building.evidence import evidence
from export.building.layers import LayersError, layers
from export.building.precisions import refusals, used
from export.building.profiles import WHOLE, Profile, Rows, Sizes, decode_sizes, other_sizes, profiles
from export.building.request import SECONDS
from export.graph.graph_file import GraphFileError, load_graph
from export.graph.inference import inferred, without_weights
from export.graph.onnx_model import OnnxModel
from export.runtime.built import Evidence
from export.runtime.errors import EngineError
from export.targets import find
from export.targets.conformance import standard

Who = Literal["checker", "rule", "table", "parser", "builder"]
UNBOUND: Sizes = (1, 2, 16)  # of a size that the graph gives a name and nobody else knows
YES, NO, UNKNOWN = "builds", "refused", "not known"
BYTES = "export for tensorrt from here, or cast to float32 right behind the input and to uint8 right before the output"
# What helps against what the parser or builder says, by words of it; rules say it themselves.
CURES = {
    r"type UInt8|type is int32 which does not match the ONNX specification type uint8": BYTES,
    r"Plugin not found": "replace it by operators of ai.onnx; `compress` exports none of other domains for tensorrt",
    r"only supports Attention nodes with one output": "write the cache before it, with TensorScatter",
    r"HW-specific datatypes|FP32 GEMM": "leave out the capability, or choose another number format",
    r"more than one op named": "give Attention an additive mask of the queries' type instead of a bool one",
    r"signal 11": "no cure is known; make the graph smaller until it builds, and look at what was left out",
}
IN_FLOAT = (
    "runs in float although its weights are quantized, so they win no time",
    "keep its result in one piece or two (no fusion qkv); give int4 weights a group of 128 that divides their inputs",
)
TAKEN_APART = (
    "is taken apart into products and a softmax: no fused kernel fits",
    "use float16, or one query a call; heads 16 to 128 wide",
)


@dataclass(frozen=True)
class Said:
    """One thing that is said of a graph or one of its nodes."""

    node: str = setting(doc="the node's name; empty where it is about the whole graph")
    operator: str = setting(doc="its operator")
    by: Who = setting(doc="who says it: the ONNX checker, a rule or the table of number formats, parser, builder")
    refuses: bool = setting(doc="whether the graph is refused for it")
    text: str = setting(doc="what is said")
    cure: str = setting(doc="what would help; empty where nothing is known, or the text says it")
    capabilities: tuple[str, ...] = setting((), doc="compute capabilities that it is about; empty: all")


@dataclass(frozen=True)
class CheckedGraph:
    """What is said of one graph."""

    graph: str = setting(doc="its name in the engine, or the file's")
    builds: dict[str, str] = setting(doc="by compute capability: builds, refused, or not known without the builder")
    said: tuple[Said, ...] = setting(doc="what was found, node by node")
    evidence: tuple[Evidence, ...] = setting(doc="how the plan computes, profile by profile; empty without a plan")


@dataclass(frozen=True)
class Checked:
    """What is said of a file or an engine."""

    path: str = setting(doc="what was checked")
    builder: str = setting(doc="the version of TensorRT for RTX that spoke; empty where only rules did")
    missing: str = setting(doc="why only rules spoke, and what would help; empty where the builder did")
    graphs: tuple[CheckedGraph, ...] = setting(doc="its graphs")

    @property
    def passed(self) -> bool:
        """Whether no graph is refused by anybody."""
        return all(NO not in graph.builds.values() for graph in self.graphs)


def check(path: Path, capabilities: Sequence[str], largest_rows: int = UNBOUND[2]) -> Checked:
    """Check an ONNX file, or every graph of an engine folder.

    Raises:
        InputError: it cannot be read, or a capability is none.
    """
    check_capabilities(capabilities)
    rows = Rows(1, min(2, largest_rows), largest_rows)
    found = []
    for name, (file, graph, asked) in graphs_of(path, rows).items():
        found.append(checked(name, file, graph, asked, capabilities))
    missing = "" if process.installed() else f"only rules spoke, because {process.missing()}"
    return Checked(str(path), process.installed(), missing, tuple(found))


def graphs_of(path: Path, rows: Rows) -> dict[str, tuple[Path, ir.Model, list[Profile]]]:
    """The graphs of a file or folder by name, each with its file and the shapes that it is asked for."""
    unbound = (rows.smallest, rows.best, rows.largest)
    try:
        if not path.is_dir():
            graph = load_graph(path)
            return {path.name: (path, graph, profiles(graph.graph, {WHOLE: {}}, unbound))}
        model = OnnxModel.load(path)
        found = {}
        for name, graph in model.graphs.items():
            if name != "generate":
                sizes = (decode_sizes if name == "decode" else other_sizes)(model.manifest.shape, rows)
                found[name] = (path / model.manifest.files[name], graph, profiles(graph.graph, sizes, unbound))
        return found
    except (GraphFileError, EngineError, BuildError) as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def checked(name: str, file: Path, graph: ir.Model, asked: list[Profile], capabilities: Sequence[str]) -> CheckedGraph:
    """What is said of one graph."""
    light = without_weights(graph)
    if broken := standard(ir.to_proto(light)):
        refused = tuple(Said("", "", "checker", True, text, "") for text in broken)
        return CheckedGraph(name, dict.fromkeys(capabilities, NO), refused, ())
    typed = inferred(light)
    ruled = [*of_rules(typed), *of_table(typed, capabilities)]
    able = [each for each in capabilities if not any(x.by == "table" and each in x.capabilities for x in ruled)]
    builds = dict.fromkeys(capabilities, NO) | dict.fromkeys(
        able, NO if any(x.by == "rule" for x in ruled) else UNKNOWN
    )
    if not process.installed():
        return CheckedGraph(name, builds, tuple(ruled), ())
    said, spoken, shown = of_builder(file, graph, asked, able)
    return CheckedGraph(name, builds | spoken, (*ruled, *said), shown)


def of_rules(typed: ir.Model) -> Iterator[Said]:
    """What the rules say, which end in their cure."""
    operators = {node.name: node.op_type for node in typed.graph.all_nodes()}
    for rule in find("tensorrt").rules:
        for text in rule(typed):
            node, _, sentence = text.partition(": ")
            known = node in operators
            yield Said(node if known else "", operators.get(node, ""), "rule", True, sentence if known else text, "")


def of_table(typed: ir.Model, capabilities: Sequence[str]) -> Iterator[Said]:
    """What the table of number formats says, which is asked before the builder."""
    operators = {node.name: node.op_type for node in typed.graph.all_nodes()}
    for precision, node in used(typed).items():
        for capability in capabilities:
            for text in refusals({precision: node}, [capability]):
                yield Said(node, operators.get(node, ""), "table", True, text, "", (capability,))


def of_builder(
    file: Path, graph: ir.Model, asked: list[Profile], capabilities: list[str]
) -> tuple[list[Said], dict[str, str], tuple[Evidence, ...]]:
    """What parser and builder say, what each capability comes to, and how the first plan computes."""
    operators = {node.name: node.op_type for node in graph.graph}
    try:
        answer = process.build(file, asked, [[each] for each in capabilities] or [[]], SECONDS)
    except BuildError as error:
        return [Said("", "", "builder", True, str(error), cure(str(error)))], dict.fromkeys(capabilities, NO), ()
    if answer.unparsed:
        unparsed = [Said(x.node, x.operator, "parser", True, x.text, cure(x.text)) for x in answer.unparsed]
        return unparsed, dict.fromkeys(capabilities, NO), ()
    said: list[Said] = []
    builds: dict[str, str] = {}
    shown: tuple[Evidence, ...] = ()
    for attempt in answer.attempts:
        for capability in attempt.capabilities:
            builds[capability] = NO if attempt.refused else YES
        if attempt.refused:
            node = next((x for x in operators if x and re.search(rf"{re.escape(x)}(?![\w/])", attempt.refused)), "")
            said.append(
                Said(
                    node, operators.get(node, ""), "builder", True, attempt.refused, cure(attempt.refused),
                    attempt.capabilities,
                )
            )  # fmt: skip
        elif attempt.capabilities and not shown:
            try:
                shown = evidence(graph.graph, layers(attempt.layers), [profile.name for profile in asked])
            except LayersError as error:
                said.append(Said("", "", "builder", False, f"it builds, but {error}", "", attempt.capabilities))
            said += [Said("", "", "builder", False, text, "") for text in attempt.warnings]
    return [*merged(said), *of_evidence(shown, operators)], builds, shown


def merged(said: Sequence[Said]) -> list[Said]:
    """The same thing of several capabilities, said once."""
    found: dict[Said, tuple[str, ...]] = {}
    for each in said:
        key = replace(each, capabilities=())
        found[key] = (*found.get(key, ()), *each.capabilities)
    return [replace(each, capabilities=capabilities) for each, capabilities in found.items()]


def of_evidence(shown: Sequence[Evidence], operators: Mapping[str | None, str]) -> Iterator[Said]:
    """What a plan computes in another way than the graph asks for, node by node."""
    for each in shown:
        for names, (text, help_) in ((each.in_float, IN_FLOAT), (each.taken_apart, TAKEN_APART)):
            for node in names:
                within = "" if each.profile == WHOLE else f" (profile {each.profile})"
                yield Said(node, operators.get(node, ""), "builder", False, text + within, help_)


def cure(text: str) -> str:
    """What helps against something that parser or builder says; empty where nothing is known."""
    return next((help_ for pattern, help_ in CURES.items() if re.search(pattern, text)), "")
