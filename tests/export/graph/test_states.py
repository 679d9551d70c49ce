"""Streams and nodes of a decode graph as outputs."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from export.graph.states import HiddenError, blocks_of, with_nodes, with_states
from export.targets import fuse


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rotary", "learned", "modulated", "masked", "next-scale"])
def test_every_stream_becomes_an_output_plain_and_fused(kind, exported) -> None:
    for model in (exported(kind), fuse(exported(kind)).model):
        count = blocks_of(model.decode.graph)
        made, names = with_states(model.decode)
        assert count > 0
        assert len(names) == count + 1
        assert len(set(names)) == count + 1
        assert set(names) <= {each.name for each in (*made.graph.outputs, *made.graph.inputs)}
        assert len(made.graph.outputs) > len(model.decode.graph.outputs), "the model itself stays as it is"


def test_the_nodes_of_one_block_become_outputs(exported) -> None:
    made, names = with_nodes(exported("rotary").decode, 0)
    assert names
    assert all(name.startswith("/blocks") and "0" in name for name in names)
    assert len(made.graph.outputs) >= len(names)


def test_a_graph_without_names_is_refused() -> None:
    value = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))
    node = ir.Node("", "Identity", [value], name="plain")
    graph = ir.Graph([value], [node.outputs[0]], nodes=[node], opset_imports={"": 23}, name="g")
    with pytest.raises(HiddenError, match="no node is named for a block"):
        with_states(ir.Model(graph, ir_version=11))
