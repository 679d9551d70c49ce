"""The list of layers in a builder's log, as TensorRT for RTX 1.7.1 writes it, and what is refused."""

from __future__ import annotations

import pytest

from export.building.layers import Layer, LayersError, Operand, layers

TENSOR = "{{ Name: {}, Dimensions: [{}], Strides: [1], StrideOrder: [0], Datatype: {}, Format: (Linear) Row major }}"
X = TENSOR.format("x", "-1,256", "Int8")
WEIGHTS = TENSOR.format("stored_myl0", "256,512", "Int8")
Y = TENSOR.format("y", "-1,512", "Float")
PRODUCT = (
    f"Name: /value/MatMul+/key/MatMul_myl0_2, LayerType: gemm, Inputs: [ {X}], Constants: [ {WEIGHTS}], Outputs: [ {Y}]"
    ", TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: [ONNX Layer: /value/MatMul]\x1f[ONNX Layer: /key/[1]]"
)
SECOND = (
    "Name: /value/MatMul [profile 1]_myl1_1, LayerType: gemm, Inputs: [], Constants: [], Outputs: [], "
    "TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: [ONNX Layer: /value/MatMul [profile 1]]"
)
THIRD = "Name: _move_myl1_2, LayerType: kgen, Inputs: [], Constants: [], Outputs: [], TacticName: _move, Metadata: "
COPY = (
    "Name: [ShapeHostToDeviceCopy 0], LayerType: ShapeHostToDevice, Inputs: [], Outputs: [ { Name: sizes, Location: "
    "Device, Dimensions: [1], Datatype: Int64, Format: N/A }], ParameterType: ShapeH2D, StreamId: 0, Metadata: "
)
SIGNAL = "Name: __mye1_myl0_3, LayerType: signal, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 1, "
END = "\nI/O Tensors:\n Name: x, IOMode: Input"


def test_a_layer_has_its_operands_and_the_nodes_that_it_computes():
    (found,) = layers(f"something before\nLayers:\n{PRODUCT}\n{END}")
    assert found == Layer(
        "/value/MatMul+/key/MatMul_myl0_2",
        "gemm",
        True,
        (Operand("x", (-1, 256), "Int8"),),
        (Operand("stored_myl0", (256, 512), "Int8"),),
        (Operand("y", (-1, 512), "Float"),),
        ("/value/MatMul", "/key/[1]"),
        0,
        0,
    )


def test_layers_of_a_second_profile_are_told_apart():
    found = layers(f"Layers:\n{PRODUCT}\n{SECOND}\n{THIRD}\n{END}")
    assert [each.profile for each in found] == [0, 1, 1]
    assert found[1].nodes == ("/value/MatMul",)


def test_a_part_need_not_be_a_profile_of_its_own():
    (found,) = layers(f"Layers:\n{THIRD}\n{END}")
    assert (found.part, found.profile) == (1, 0)


def test_what_orders_streams_and_copies_sizes_is_no_kernel():
    signal, copy = layers(f"Layers:\n{SIGNAL}TacticName: , EventId: 3, Metadata: \n{COPY}\n{END}")
    assert (signal.kind, signal.is_kernel, signal.nodes) == ("signal", False, ())
    assert (copy.is_kernel, copy.outputs) == (False, (Operand("sizes", (1,), "Int64"),))


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("Engine generation completed.", r"^the builder's log has no line 'Layers:', so nothing shows how"),
        (f"Layers:\n{PRODUCT}", r"^the builder's log is cut off within the layers: no line 'I/O Tensors:' ends them"),
        (f"Layers:\n{END}", r"^the builder's log lists no layer between 'Layers:' and 'I/O Tensors:'"),
        (
            f"Layers:\n{PRODUCT[:150]}\n{END}",
            r"^the builder's log has a layer that cannot be read: Name: /value/MatMul",
        ),
    ],
)
def test_a_log_without_a_whole_list_is_refused(log: str, words: str):
    with pytest.raises(LayersError, match=words):
        layers(log)
