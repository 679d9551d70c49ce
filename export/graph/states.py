"""Looking inside a decode graph: the residual stream before every block, and single nodes, as further outputs.

A block's nodes carry its number in their names (`/blocks/3/...`). The stream that a block reads is what its first norm
reads; where a fusion adds the branch inside the norm, it is that node's sum. Blocks whose norms stand behind the sums
give the stream out by their last norm, and nothing is normed behind them.
"""

from __future__ import annotations

import re

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

BLOCK = re.compile(r"^/blocks[./](\d+)/")
FIRST_NORM, BLOCKS_LAST_NORM, LAST_NORM = "attention_norm", "ffn_norm", "norm"
READERS = re.compile(r"^/blocks[./]0/attention/(query|key|value|qkv)/")
SKIPPED_SUM = 3  # the output of Skip(Simplified)LayerNormalization that holds the sum


class HiddenError(ValueError):
    """A graph does not show what was asked for; the message says which part."""


def blocks_of(graph: ir.Graph) -> int:
    """How many blocks the names tell of."""
    numbers = [int(found.group(1)) for node in graph if (found := BLOCK.match(node.name or ""))]
    return max(numbers, default=-1) + 1


def with_states(model: ir.Model) -> tuple[ir.Model, list[str]]:
    """A copy with the stream before each block and behind the last as outputs, and their names in that order.

    Raises:
        HiddenError: a block's first norm is not found.
    """
    copy = model.clone()
    return copy, [expose(copy.graph, value) for value in streams(copy.graph)]


def with_first_states(model: ir.Model) -> tuple[ir.Model, list[str]]:
    """A copy that computes the stream before and behind the first block, and no other output.

    Raises:
        HiddenError: one of them is not found.
    """
    copy = model.clone()
    values = streams(copy.graph, 2)
    copy.graph.outputs[:] = list({id(value): value for value in values}.values())
    RemoveUnusedNodesPass()(copy)
    return copy, [value.name or "" for value in values]


def with_last_norm(model: ir.Model) -> tuple[ir.Model, str]:
    """The same graph with the output of its last norm as an output, and its name; the empty name where it has none."""
    nodes = named(model.graph, f"/{LAST_NORM}/")
    return model, expose(model.graph, nodes[-1].outputs[0]) if nodes else ""


def streams(graph: ir.Graph, most: int | None = None) -> list[ir.Value]:
    """The stream before each block and behind the last, or the first of these.

    Raises:
        HiddenError: a block's first norm is not found.
    """
    count = blocks_of(graph)
    if not count:
        raise HiddenError("no node is named for a block (/blocks/0/...)")
    if not named(graph, f"/{LAST_NORM}/"):
        behind = [named(graph, f"/blocks/{index}/{BLOCKS_LAST_NORM}/") for index in range(count)][:most]
        readers = [node for node in graph if READERS.match(node.name or "") and node.inputs and node.inputs[0]]
        if readers and all(behind):
            first = readers[0].inputs[0]
            assert first is not None
            return [first, *(nodes[-1].outputs[0] for nodes in behind)][:most]
    prefixes = [*(f"/blocks/{index}/{FIRST_NORM}/" for index in range(count)), f"/{LAST_NORM}/"]
    return [stream(graph, prefix) for prefix in prefixes[:most]]


def named(graph: ir.Graph, prefix: str) -> list[ir.Node]:
    """The nodes under a name, in order."""
    return [node for node in graph if (node.name or "").replace("blocks.", "blocks/").startswith(prefix)]


def stream(graph: ir.Graph, prefix: str) -> ir.Value:
    """What the first node under a name reads, or the sum that it makes of it."""
    nodes = named(graph, prefix)
    if not nodes:
        raise HiddenError(f"no node is named {prefix}...: this layout of blocks is not known")
    node = nodes[0]
    if not node.op_type.startswith("Skip"):
        value = node.inputs[0]
        assert value is not None
        return value
    if len(node.outputs) <= SKIPPED_SUM:
        raise HiddenError(f"{node.name} adds the branch inside and does not give out the sum")
    return node.outputs[SKIPPED_SUM]


def with_nodes(model: ir.Model, block: int) -> tuple[ir.Model, list[str]]:
    """A copy with the first output of every node of a block as an output, and the nodes' names in order."""
    copy, names = model.clone(), []
    for node in copy.graph:
        found = BLOCK.match(node.name or "")
        if found and int(found.group(1)) == block and node.outputs[0].name:
            value = node.outputs[0]
            names.append(node.name or "")
            expose(copy.graph, value)
    return copy, names


def expose(graph: ir.Graph, value: ir.Value) -> str:
    """Make a value an output; its name."""
    if not value.is_graph_output() and not value.is_graph_input():
        graph.outputs.append(value)
    return value.name or ""
