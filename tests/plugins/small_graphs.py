"""Small graphs that the tests here build: one product in each number format, and the products of a layer."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

K, N = 256, 384
FLOATS = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}
STORED = {"int8": np.int8, "fp8": ml_dtypes.float8_e4m3fn, "int4": ml_dtypes.int4}


def product(floats: str, weights: str = "", *, both: bool = False, group: int = 0, parts: int = 1) -> onnx.ModelProto:
    """y (R, N) of x (R, K) in a float format, with weights in a low-precision one, where they are, by group or column.

    `both` rounds x too; `parts` cuts y into so many.
    """
    kind = FLOATS[floats]
    nodes, constants = [], []

    def constant(name: str, array: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(array, name))
        return name

    values = np.random.default_rng(0).normal(size=(K, N)).astype(np.float32)
    x, w = "x", "w"
    if weights:
        low = STORED[weights]
        scales = np.full((K // group, N) if group else N, 0.05, kind)
        given = [
            constant("stored", (values / 0.05).clip(-7, 7).round().astype(low)),
            constant("scales", scales),
            constant("zeros", np.zeros(scales.shape, low)),
        ]
        settings = {"axis": 0, "block_size": group} if group else {"axis": 1}
        nodes.append(helper.make_node("DequantizeLinear", given, [w], name="/weights", **settings))
        if both:
            rounding = [constant("scale", np.array(0.05, kind)), constant("zero", np.array(0, low))]
            nodes.append(helper.make_node("QuantizeLinear", ["x", *rounding], ["rounded"], name="/round"))
            nodes.append(helper.make_node("DequantizeLinear", ["rounded", *rounding], ["restored"], name="/restore"))
            x = "restored"
    else:
        constant(w, values.astype(kind))
    whole = "whole" if parts > 1 else "y"
    nodes.append(helper.make_node("MatMul", [x, w], [whole], name="/product"))
    outputs = [f"y{part}" for part in range(parts)] if parts > 1 else ["y"]
    if parts > 1:
        nodes.append(helper.make_node("Split", [whole], outputs, name="/split", axis=1, num_outputs=parts))
    type_ = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", type_, ["batch", K])],
        [helper.make_tensor_value_info(name, type_, ["batch", N // parts]) for name in outputs],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)


def crashing() -> onnx.ModelProto:
    """Attention whose queries, keys and values are one input: the builder of TensorRT for RTX 1.7.1 crashes on it."""
    values = helper.make_tensor_value_info("q", TensorProto.FLOAT, ["batch", 4, 1, 32])
    node = helper.make_node("Attention", ["q", "q", "q"], ["y"], name="/attention")
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, 1, 32])
    graph = helper.make_graph([node], "crash", [values], [result])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)


def written(model: onnx.ModelProto, folder: Path) -> Path:
    """A model's file."""
    path = folder / "small.onnx"
    onnx.save(model, path)
    return path
