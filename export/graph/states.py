"""Looking inside a decode graph: the residual stream before every block, and single nodes, as further outputs.

A block's nodes carry its number in their names (`/blocks/3/...`). The stream that a block reads is what its first norm
reads; where a fusion adds the branch inside the norm, it is that node's sum.
"""

from __future__ import annotations

import re

import onnx_ir as ir

BLOCK = re.compile(r"^/blocks[./](\d+)/")
FIRST_NORM, LAST_NORM = "attention_norm", "norm"
SKIPPED_SUM = 3  # the output of Skip(Simplified)LayerNormalization that holds the sum


class HiddenError(ValueError):
    """A graph does not show what was asked for; the message says which part."""


def blocks_of(model: ir.Model) -> int:
    """How many blocks the names tell of."""
    numbers = [int(found.group(1)) for node in model.graph if (found := BLOCK.match(node.name or ""))]
    return max(numbers, default=-1) + 1


def with_states(model: ir.Model) -> tuple[ir.Model, list[str]]:
    """A copy with the stream before each block and behind the last as outputs, and their names in that order.

    Raises:
        HiddenError: a block's first norm is not found.
    """
    copy = model.clone()
    count = blocks_of(copy)
    if not count:
        raise HiddenError("no node is named for a block (/blocks/0/...)")
    prefixes = [f"/blocks/{index}/{FIRST_NORM}/" for index in range(count)] + [f"/{LAST_NORM}/"]
    names = [expose(copy.graph, stream(copy.graph, prefix)) for prefix in prefixes]
    return copy, names


def stream(graph: ir.Graph, prefix: str) -> ir.Value:
    """What the first node under a name reads, or the sum that it makes of it."""
    for node in graph:
        if (node.name or "").replace("blocks.", "blocks/").startswith(prefix):
            if not node.op_type.startswith("Skip"):
                value = node.inputs[0]
                assert value is not None
                return value
            if len(node.outputs) <= SKIPPED_SUM:
                raise HiddenError(f"{node.name} adds the branch inside and does not give out the sum")
            return node.outputs[SKIPPED_SUM]
    raise HiddenError(f"no node is named {prefix}...: this layout of blocks is not known")


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
