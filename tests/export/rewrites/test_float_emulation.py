"""An emulated engine rounds where one in half precision would, and computes in float32."""

from __future__ import annotations

import copy

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnxruntime import InferenceSession

from compress.core.settings import InputError
from compress.models.candidate import open_engine
from export.graph.builder import Builder
from export.rewrites.float_emulation import emulate, emulated
from export.rewrites.float_rules import Rules, Widths
from export.rewrites.floats import TYPES, Narrowing
from export.runtime.engine import Engine, EngineError
from export.targets import in_floats


@pytest.mark.parametrize(("floats", "number"), [("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)])
def test_every_node_is_rounded_as_numpy_rounds_by_hand(floats, number, tmp_path) -> None:
    given = ir.Value(name="past.0.key", shape=ir.Shape([4, 8]), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([given], [], nodes=[], opset_imports={"": 23}, name="test")
    build, generator = Builder(graph, None, "part"), np.random.default_rng(0)
    weight, bias = (generator.normal(size=size).astype(np.float32) for size in ((8, 8), (8,)))
    product = build.add("MatMul", [given, build.initializer("weight", weight)])
    made = build.add("Sigmoid", [build.add("Add", [product, build.initializer("bias", bias)])])
    made.name, made.type = "present.0.key", given.type
    graph.outputs.append(made)
    Narrowing(graph, Widths(graph, Rules(TYPES[floats][0]), ()), floats).apply()
    emulate(graph, TYPES[floats][0])
    ir.save(ir.Model(graph, ir_version=11), path := tmp_path / "graph.onnx")
    x = rounded(generator.normal(size=(4, 8)).astype(np.float32), number)
    (found,) = InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"past.0.key": x})
    summed = rounded(rounded(x @ rounded(weight, number), number) + rounded(bias, number), number)
    assert found.dtype == np.float32
    assert (np.abs(found - rounded(1 / (1 + np.exp(-summed)), number)) <= np.spacing(found.astype(number)) / 2).all()
    assert (found == rounded(found, number)).all()


def rounded(array: np.ndarray, number: type) -> np.ndarray:
    """The nearest numbers of another type, as float32."""
    return array.astype(number).astype(np.float32)


@pytest.mark.parametrize("kind", ["rotary", "learned", "masked", "next-scale"])
def test_an_emulated_float16_engine_is_as_far_from_float32_as_a_module_of_pytorch_in_half_precision(
    exported, engine_of, examples_of, model_of, kind
) -> None:
    given = examples_of(kind)
    exact, found = (
        engine_of(model).score(given.inputs)
        for model in (exported(kind), emulated(in_floats(exported(kind), "float16").model))
    )
    with torch.no_grad():
        eager = copy.deepcopy(model_of(kind).transformer).half()(given.tensors()[0]).float().numpy()
    share = np.abs(found - exact).mean() / np.abs(eager[:, -exact.shape[1] :] - exact).mean()
    assert 0.3 < share < 1.5


def test_a_bfloat16_engine_cannot_run_here_and_is_emulated_where_it_is_measured(
    exported, engine_of, examples_of, tmp_path
) -> None:
    model, given = in_floats(exported("rotary", "tensorrt"), "bfloat16").model, examples_of("rotary")
    model.save(tmp_path)
    with pytest.raises(EngineError, match="is in bfloat16, which ONNX Runtime does not compute in on CPUs; run its"):
        Engine.load(tmp_path, threads=1)
    engine = open_engine(tmp_path, threads=1)
    logits = engine.score(given.inputs)
    assert (logits.astype(ml_dtypes.bfloat16).astype(np.float32) != logits).any()  # the head stays in float32
    exact = engine_of(exported("rotary", "tensorrt")).score(given.inputs)
    error = np.abs(logits - exact).mean() / np.abs(exact).mean()
    assert 5e-4 < error < 2e-2  # 8 bits
    keys = engine.caches(given.inputs)["0.key"]
    assert (keys.astype(ml_dtypes.bfloat16).astype(np.float32) == keys).all()


def test_bfloat16_is_refused_for_runtimes_without_it() -> None:
    from compress.passes.export import Export

    with pytest.raises(InputError) as error:
        Export("onnxruntime", floats="bfloat16")
    assert str(error.value).endswith("onnxruntime computes nothing in bfloat16; use float32 or float16")
