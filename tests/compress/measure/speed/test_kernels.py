"""Times of single products: of graphs of the deployed kernels, for each layer, interleaved."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.measure.speed import kernels
from compress.measure.speed.kernels import Kernel, graph_of, key_of, layer_of, milliseconds, parts
from compress.measure.speed.timing import Timings
from compress.models.transformer.quantized import LinearQuantization, QuantizedLinear
from export.graph.builder import Builder
from export.runtime.roofline import probe

INT4 = LinearQuantization("int4", group=32)
FORMATS = [
    (None, {"MatMul"}),
    (LinearQuantization("int8"), {"DequantizeLinear", "MatMul"}),
    (LinearQuantization("int8", "int8"), {"QuantizeLinear", "DequantizeLinear", "MatMul"}),
    (LinearQuantization("int8", "int8", dynamic=True), {"MatMulNBits"}),
    (INT4, {"MatMulNBits"}),
    (LinearQuantization("int4", "int8", dynamic=True, group=32, symmetric=False), {"MatMulNBits"}),
    (LinearQuantization("int2", group=32), {"MatMulNBits"}),
    (LinearQuantization("fp8"), {"DequantizeLinear", "MatMul"}),
]


@pytest.mark.parametrize(("spec", "operators"), FORMATS)
def test_a_graph_holds_the_deployed_operators_once_for_each_layer(spec, operators):
    graph = graph_of(Kernel(64, 48, spec, rows=3)).graph
    assert {node.op_type for node in graph} == operators
    products = [node for node in graph if node.op_type.startswith("MatMul")]
    assert len(products) == len(graph.outputs) == 8
    assert len({node.inputs[1].name for node in products}) == 8, "each has weights of its own"


@pytest.mark.parametrize("spec", [spec for spec, _ in FORMATS if spec is not None and not spec.static])
def test_a_layer_of_the_graph_computes_what_the_layer_in_pytorch_does(spec):
    kernel = Kernel(64, 48, spec, rows=3)
    graph = graph_of(kernel)
    layer = layer_of(kernel, spec, Builder(graph.graph, None, "again"), 0, np.random.Generator(np.random.Philox(1)))
    module = QuantizedLinear(64, 48, spec)
    module.weight.copy_(torch.from_numpy(layer.weight.astype(np.float32)))
    module.weight_scale.copy_(torch.from_numpy(layer.scale))
    x = np.random.default_rng(0).standard_normal((3, 1, 64), dtype=np.float32)
    session = probe(graph_of(kernel), 1, exact_inputs=spec.activations == "none")
    (made,) = session.run(["y0"], {"x": x})
    np.testing.assert_allclose(made, module(torch.from_numpy(x)).numpy(), atol=2e-4)


def test_a_layers_time_is_its_graphs_divided_by_its_layers(monkeypatch):
    given = {}

    def paired(runners, repeats):
        given.update(runners)
        return Timings({"0": (0.008,) * 6, "1": (0.016,) * 6})

    monkeypatch.setattr(kernels, "paired", paired)
    small, large = Kernel(16, 16), Kernel(2**13, 2**12)
    monkeypatch.setattr(kernels, "runner", lambda kernel, threads: kernel)
    assert (small.layers, large.layers) == (8, 2)  # 2 layers of 128 MiB are as much as a graph may hold
    found = milliseconds([small, large, small])
    assert list(given.values()) == [small, large], "each once"
    assert [each.value for each in found.values()] == [1.0, 8.0]


def test_graphs_that_do_not_fit_into_memory_together_are_timed_apart():
    large = [Kernel(2**13, 2**12, rows=rows) for rows in range(1, 6)]  # 256 MiB each, 1 GiB together
    assert [len(part) for part in parts(large)] == [4, 1]
    assert [len(part) for part in parts([Kernel(2**15, 2**15)])] == [1], "one that is too large alone is timed alone"


def test_a_larger_product_takes_longer():
    small, large = Kernel(16, 16), Kernel(1024, 1024)
    found = milliseconds([small, large], threads=1, repeats=6)
    assert 0 < found[small].high < found[large].low


def test_the_key_names_what_decides_the_time():
    keys = {
        key_of([Kernel(16, 16)], 1),
        key_of([Kernel(16, 16)], 2),
        key_of([Kernel(16, 16, INT4)], 1),
        key_of([Kernel(16, 16, rows=2)], 1),
    }
    assert len(keys) == 4
