"""Sessions of a step: what they keep of the memory that a call took."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from compress.core.memory import give_back, resident_mib
from export.runtime.sessions import Sessions

SIDE = 4096  # 64 MiB of float32 for each of its squares


def wide_session() -> onnxruntime.InferenceSession:
    """A graph whose one number passes through a square of `SIDE`; an arena keeps its first region, so that is small."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["twice"]),
        helper.make_node("Expand", ["twice", "shape"], ["square"]),
        helper.make_node("Sin", ["square"], ["sines"]),
        helper.make_node("ReduceSum", ["sines"], ["y"], keepdims=0),
    ]
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [SIDE, SIDE])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in (("x", [1]), ("y", [])))
    graph = helper.make_graph(nodes, "wide", [x], [y], [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("last", [True, False])
def test_the_last_call_gives_back_what_calls_took(last: bool) -> None:
    sessions = Sessions(wide_session())
    feeds = {"x": np.zeros(1, dtype=np.float32)}
    give_back()
    before = resident_mib()
    for call in range(2):
        assert sessions.run(["y"], feeds, last=last and call == 1)[0] == 0
    give_back()
    assert (resident_mib() - before > 60) is not last
