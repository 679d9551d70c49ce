"""Types and shapes of the values of a graph, without copying its weights."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from export.graph.weights import in_memory

SMALL = 4096  # numbers of a constant whose values shape inference may want to know


def without_weights(model: ir.Model) -> ir.Model:
    """A copy whose large constants are inputs of the same type and shape, which is all that the checks ask of them.

    The checker copies what it is given several times, and takes nothing above 2 GB.
    """
    light = model.clone()
    for name, value in list(light.graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and tensor.size > SMALL:
            light.graph.initializers.pop(name)
            value.type = ir.TensorType(tensor.dtype)
            value.shape = ir.Shape([int(each) for each in tensor.shape])  # type: ignore[arg-type]
            light.graph.inputs.append(value)
        elif isinstance(tensor, ir.ExternalTensor):
            value.const_value = in_memory(tensor)
    return light


def inferred(light: ir.Model) -> ir.Model:
    """A model with the type and shape of every value, as far as they can be inferred, its large constants restored."""
    proto = ir.to_proto(light)
    typed = ir.from_proto(onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True))
    constants = {value.name: value.const_value for value in light.graph.inputs if value.const_value is not None}
    for value in list(typed.graph.inputs):
        if value.name in constants:
            typed.graph.inputs.remove(value)
            value.const_value = constants[value.name]
            typed.graph.register_initializer(value)
    return typed
