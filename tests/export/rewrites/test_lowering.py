"""Every row of the table of lowerings against the quantized layer's own forward in PyTorch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from compress.models.transformer.quantized import LinearQuantization, QuantizedLinear
from export.rewrites.lowering import LoweringError, lower, packed
from export.targets import find

OUTPUTS, TOKENS = 24, 5
SPECS = {
    "int8 dynamic": LinearQuantization("int8", "int8", dynamic=True),
    "int8 dynamic groups": LinearQuantization("int8", "int8", dynamic=True, group=16),
    "int4 dynamic": LinearQuantization("int4", "int8", dynamic=True),
    "int4 dynamic groups": LinearQuantization("int4", "int8", dynamic=True, group=32),
    "int4": LinearQuantization("int4"),
    "int4 groups": LinearQuantization("int4", group=16),
    "int4 zero points": LinearQuantization("int4", "int8", dynamic=True, group=32, symmetric=False),
    "int4 zero points, float inputs": LinearQuantization("int4", group=16, symmetric=False),
    "int2 dynamic": LinearQuantization("int2", "int8", dynamic=True, group=32),
    "int2 zero points": LinearQuantization("int2", "int8", dynamic=True, symmetric=False),
    "int8 zero points": LinearQuantization("int8", symmetric=False),
    "int8": LinearQuantization("int8"),
    "int8 groups": LinearQuantization("int8", group=16),
    "int8 static": LinearQuantization("int8", "int8"),
    "int8 static reduced": LinearQuantization("int8", "int8", reduce_range=True),
    "fp8 static": LinearQuantization("fp8", "fp8"),
    "fp8": LinearQuantization("fp8"),
}
QDQ = {"QuantizeLinear": 1, "DequantizeLinear": 2, "MatMul": 1}
RESTORED = {"DequantizeLinear": 1, "MatMul": 1}
PACKED = {"MatMulNBits": 1}
# Rounding of each block of inputs in ordinary operators, behind Pad and before Slice where the last block is short.
BLOCKS = {"Reshape": 2, "Abs": 1, "ReduceMax": 1, "Max": 1, "Div": 2, "Mul": 2, "Round": 1, **RESTORED}
TABLE = {
    "int8 dynamic": {"onnxruntime": PACKED, "standard": {**BLOCKS, "Pad": 1, "Slice": 1}},
    "int8 dynamic groups": {"onnxruntime": PACKED, "standard": BLOCKS},
    "int4 dynamic": {"onnxruntime": PACKED, "standard": {**BLOCKS, "Pad": 1, "Slice": 1}},
    "int4 dynamic groups": {"onnxruntime": PACKED, "standard": BLOCKS},
    "int4": {"onnxruntime": PACKED, "standard": RESTORED, "tensorrt": RESTORED},
    "int4 groups": {"onnxruntime": PACKED, "standard": RESTORED, "tensorrt": RESTORED},
    "int4 zero points": {"onnxruntime": PACKED, "standard": BLOCKS},
    "int4 zero points, float inputs": {"onnxruntime": PACKED, "standard": RESTORED},
    "int2 dynamic": {"onnxruntime": PACKED},
    "int2 zero points": {"onnxruntime": PACKED},
    "int8 zero points": dict.fromkeys(("onnxruntime", "standard"), RESTORED),
    "int8": dict.fromkeys(("onnxruntime", "standard", "tensorrt"), RESTORED),
    "int8 groups": dict.fromkeys(("onnxruntime", "standard"), RESTORED),
    "int8 static": dict.fromkeys(("onnxruntime", "standard", "tensorrt"), QDQ),
    "int8 static reduced": dict.fromkeys(("onnxruntime", "standard", "tensorrt"), QDQ),
    "fp8 static": dict.fromkeys(("onnxruntime", "standard", "tensorrt"), QDQ),
    "fp8": dict.fromkeys(("onnxruntime", "standard", "tensorrt"), RESTORED),
}
CELLS = [(kind, target) for kind, row in TABLE.items() for target in row]


def layer_of(spec: LinearQuantization, inputs: int) -> QuantizedLinear:
    """A layer of random weights whose channels differ in size."""
    generator = torch.Generator().manual_seed(inputs)
    linear = torch.nn.Linear(inputs, OUTPUTS, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(OUTPUTS, inputs, generator=generator))
        linear.weight *= torch.linspace(0.1, 1, OUTPUTS)[:, None]
    groups = spec.groups(inputs)
    width = spec.group or inputs
    padded = torch.nn.functional.pad(linear.weight.detach().abs(), (0, groups * width - inputs))
    scales = padded.unflatten(1, (groups, width)).amax(dim=2) / spec.largest
    zero = torch.randint(int(spec.smallest), int(spec.largest) + 1, scales.shape, generator=generator)
    static = 3 / (448 if spec.weights == "fp8" else 127)
    return QuantizedLinear.of(linear, spec, scales, static, None if spec.symmetric else zero).eval()


def source_of(layer: QuantizedLinear) -> ir.Model:
    """What PyTorch's export leaves of one layer called `proj`, whose input is (B, T, K)."""
    spec, kind = layer.spec, ir.DataType.FLOAT
    x = ir.Value(name="x", shape=ir.Shape(["batch", "tokens", layer.in_features]), type=ir.TensorType(kind))
    buffers = ("weight", "weight_scale", "weight_zero", "activation_scale")
    held = {f"proj.{name}": getattr(layer, name) for name in buffers}
    constants = {name: value for name, value in held.items() if value is not None}
    values = [ir.Value(name=name, const_value=tensor_of(name, array)) for name, array in constants.items()]
    attributes = {
        "weights": spec.weights,
        "activations": spec.activations,
        "dynamic": int(spec.dynamic),
        "group": spec.group,
        "symmetric": int(spec.symmetric),
    }
    node = ir.Node(
        "compress", "QuantizedLinear", [x, *values], ir.convenience.convert_attributes(attributes), name="/proj"
    )
    y = node.outputs[0]
    y.name, y.type, y.shape = "y", ir.TensorType(kind), ir.Shape(["batch", "tokens", layer.out_features])
    imports = {"": 23, "compress": 1}
    graph = ir.Graph([x], [y], nodes=[node], initializers=values, opset_imports=imports, name="layer")
    return ir.Model(graph, ir_version=11)


def tensor_of(name: str, array: torch.Tensor) -> ir.Tensor:
    """A constant; FP8 through its bits, which NumPy has no type for."""
    if array.dtype == torch.float8_e4m3fn:
        return ir.Tensor(array.view(torch.uint8).numpy(), dtype=ir.DataType.FLOAT8E4M3FN, name=name)
    return ir.Tensor(array.numpy(), name=name)


def lowered(layer: QuantizedLinear, target: str) -> ir.Model:
    """The layer's graph for a target."""
    model = source_of(layer)
    lower(model, find(target).lowered)
    return model


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    """What ONNX Runtime computes of the nodes as they stand.

    Its optimizer turns DequantizeLinear and MatMul of weight-only formats into an 8-bit kernel that rounds
    activations too, which is another computation; so it is off here, and the engine switches that rewrite off.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    proto = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def numbers(inputs: int, rows: int = 2) -> np.ndarray:
    """Inputs (rows, T, K), with one token of zeros, whose dynamic scale is 0."""
    x = np.random.default_rng(inputs).normal(size=(rows, TOKENS, inputs)).astype(np.float32)
    x[0, 1] = 0
    return x


@pytest.mark.parametrize(("kind", "target"), CELLS)
def test_every_cell_of_the_table_computes_what_the_layer_does(kind, target) -> None:
    inputs = 64
    layer = layer_of(SPECS[kind], inputs)
    x = numbers(inputs)
    with torch.no_grad():
        expected = layer(torch.from_numpy(x)).numpy()
    # Sums of 64 products of about 1 in float32, in another order; no input is within 1e-6 of a rounding's edge.
    np.testing.assert_allclose(run(lowered(layer, target), x), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("kind", "target"), CELLS)
def test_every_cell_of_the_table_has_its_nodes(kind, target) -> None:
    model = lowered(layer_of(SPECS[kind], 64), target)
    assert Counter(node.op_type for node in model.graph) == TABLE[kind][target]
    assert "compress" not in model.opset_imports
    assert all(value.uses() for value in model.graph.initializers.values())
    assert [value.name for value in model.graph.outputs] == ["y"]


@pytest.mark.parametrize(
    ("kind", "target"), [cell for cell in CELLS if cell[1] != "tensorrt" and cell[0].startswith("int")]
)
def test_a_short_last_block_computes_what_the_layer_does(kind, target) -> None:
    # 40 inputs fill two groups of 16 and half a third, and less than one block of 128.
    layer, x = layer_of(SPECS[kind], 40), numbers(40)
    with torch.no_grad():
        expected = layer(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(run(lowered(layer, target), x), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", [kind for kind in SPECS if SPECS[kind].dynamic])
def test_tensorrt_refuses_dynamic_activations_and_says_what_it_takes(kind) -> None:
    with pytest.raises(LoweringError) as error:
        lowered(layer_of(SPECS[kind], 64), "tensorrt")
    assert str(error.value) == (
        "proj: tensorrt has no dynamic int8 activations; use static ones (dynamic: false, down: same) or none"
    )


def test_tensorrt_refuses_groups_of_what_it_unpacks_at_every_step() -> None:
    with pytest.raises(LoweringError) as error:
        lowered(layer_of(LinearQuantization("int8", group=16), 64), "tensorrt")
    assert str(error.value) == "proj: tensorrt unpacks int8 weights in groups to float at every step; use group 0"


def test_tensorrt_refuses_zero_points_and_standard_onnx_two_bits() -> None:
    with pytest.raises(LoweringError) as error:
        lowered(layer_of(SPECS["int8 zero points"], 64), "tensorrt")
    assert str(error.value) == "proj: tensorrt has no zero points of weights; use symmetric: true"
    with pytest.raises(LoweringError) as error:
        lowered(layer_of(SPECS["int2 dynamic"], 64), "standard")
    assert str(error.value) == "proj: only onnxruntime has kernels for int2 weights; use int4"


@pytest.mark.parametrize("group", [16, 256])
def test_onnxruntime_refuses_groups_of_two_bits_whose_inputs_it_does_not_round(group) -> None:
    spec = LinearQuantization("int2", "int8", dynamic=True, group=group)
    with pytest.raises(LoweringError) as error:
        lowered(layer_of(spec, 256), "onnxruntime")
    assert str(error.value) == (
        f"proj: onnxruntime rounds the inputs of int2 weights in groups of 32, 64 or 128 alone; here they are {group}"
    )


@pytest.mark.parametrize(("bits", "wanted"), [(8, [126, 129, 128]), (4, [0x96, 0x88]), (2, [0b10_10_11_00])])
def test_codes_are_packed_from_the_lowest_bits_and_filled_up_with_the_middle(bits, wanted) -> None:
    assert packed(np.array([[-2, 1]], dtype=np.int8), bits, 3).tolist() == [wanted]


def test_packed_weights_have_the_middle_code_as_their_zero() -> None:
    # One channel of 16 inputs: int4 code q is stored as q + 8, two a byte, the first in the low half.
    layer = layer_of(LinearQuantization("int4", group=16), 16)
    codes = np.array([-7, 7, 0, 1, -1, 2, 3, 4, -2, -3, -4, 5, 6, -5, -6, 0], dtype=np.int8)
    layer.weight[0] = torch.from_numpy(codes)
    model = lowered(layer, "onnxruntime")
    packed = model.graph.initializers["proj.weight"].const_value.numpy()
    assert packed.shape == (OUTPUTS, 1, 8)
    assert packed[0, 0].tolist() == [0xF1, 0x98, 0xA7, 0xCB, 0x56, 0xD4, 0x3E, 0x82]
    assert {name: value.value for name, value in model.graph[0].attributes.items()} == {
        "K": 16, "N": OUTPUTS, "bits": 4, "block_size": 16, "accuracy_level": 1,
    }  # fmt: skip


def test_layers_without_groups_repeat_their_scale_for_each_block_of_128() -> None:
    layer = layer_of(SPECS["int8 dynamic"], 200)
    model = lowered(layer, "onnxruntime")
    scales = model.graph.initializers["proj.weight_scale"].const_value.numpy()
    assert scales.shape == (OUTPUTS, 2)
    assert (scales == layer.weight_scale.numpy()).all()
    attributes = model.graph[0].attributes
    assert (attributes["block_size"].value, attributes["accuracy_level"].value) == (128, 4)


def test_a_layer_without_quantization_is_left_alone() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 11, opset_import: ["" : 23]>g (float[2,3] x, float[3,4] w) => (float[2,4] y) { y = MatMul(x, w) }'
    )
    lower(model, find("tensorrt").lowered)
    assert [node.op_type for node in model.graph] == ["MatMul"]


@pytest.mark.parametrize(("inputs", "group"), [(256, 128), (128, 64), (48, 16), (40, 0)])
def test_tensorrt_gets_int4_weights_in_groups_whose_scales_repeat(inputs: int, group: int) -> None:
    layer, x = layer_of(SPECS["int4"], inputs), numbers(inputs)
    model = lowered(layer, "tensorrt")
    scales = model.graph.initializers["proj.weight_scale"].const_value.numpy()
    (restored,) = (node for node in model.graph if node.op_type == "DequantizeLinear")
    assert restored.attributes.get_int("block_size", 0) == group
    assert scales.shape == ((inputs // group, OUTPUTS) if group else (OUTPUTS,))
    assert (scales == layer.weight_scale.numpy().T).all()
    np.testing.assert_array_equal(run(model, x), run(lowered(layer, "standard"), x))
