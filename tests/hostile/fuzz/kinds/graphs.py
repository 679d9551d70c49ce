"""Foreign ONNX decoders of `models inspect` and `generate`: fields of the protobuf, and bytes."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import onnx
import onnx_ir as ir
from onnx import helper

from fuzz import blobs
from fuzz.case import Case

OPERATORS = (
    "Add",
    "MatMul",
    "Loop",
    "If",
    "Scan",
    "Reshape",
    "Softmax",
    "NoSuchOperator",
    "Gather",
    "Expand",
    "Tile",
    "Identity",
)


def mutate(random: Random, corpus: Path, room: Path) -> Case:
    """A decoder with a change, in a recipe that names it."""
    path, wrong, right = room / "model.onnx", "", ""
    source = corpus / "foreign" / "model.onnx"
    if random.random() < 0.35:
        data, said = blobs.change(source.read_bytes(), random)
        path.write_bytes(data)
    else:
        model = onnx.load(source)
        said = random.choice((node_changed, weight_changed, value_changed, header_changed, order_changed))(
            model, random
        )
        path.write_bytes(model.SerializeToString())
        if said == "shuffled":
            right = "a decoder whose nodes stand in another order was refused"
        if said.startswith("outside"):
            wrong = "weights outside the model's folder were read"
    # An export of the tokenizer takes seconds; the engine of the same model has the same graphs.
    exported = {
        "export.tracing.export.plain_graph": lambda _, __, name, *rest: ir.load(corpus / "engine" / f"{name}.onnx")
    }
    recipe = room / "foreign.yaml"
    recipe.write_text((corpus / "foreign.yaml").read_text().replace(str(source), str(path)))
    if random.random() < 0.3:
        return Case(("models", "inspect", str(path)), said)
    arguments = ("generate", str(recipe), "--labels", "1", "-o", "drawn.png", "--threads", "1")
    return Case(arguments, said, wrong, right, instead=exported)


def node_changed(model: Any, random: Random) -> str:
    """Another operator, input, output or attribute of a node, or none."""
    nodes = model.graph.node
    at = random.randrange(len(nodes))
    node = nodes[at]
    how = random.choice(("operator", "input", "output", "domain", "delete", "double", "attribute", "drop"))
    if how == "operator":
        node.op_type = random.choice(OPERATORS)
    elif how == "input":
        names = [name for each in nodes for name in each.output] + ["", "nothing", node.output[0]]
        node.input[random.randrange(len(node.input))] = random.choice(names)
    elif how == "output":
        node.output[0] = random.choice(("", "nothing", nodes[0].output[0], "logits"))
    elif how == "domain":
        node.domain = random.choice(("com.microsoft", "nothing", "ai.onnx.ml"))
    elif how == "delete":
        del nodes[at]
    elif how == "double":
        nodes.add().CopyFrom(node)
    elif how == "drop":
        del node.input[-1]
    else:
        value = random.choice((-1, 0, 2**62, -(2**62), 1.5, "x", [0, 0, 0], [-9] * 4, [2**60, 2]))
        node.attribute.append(helper.make_attribute(random.choice(("axis", "perm", "to", "x")), value))
    return f"node {at} {node.op_type}: {how}"


def weight_changed(model: Any, random: Random) -> str:
    """Another shape, format, name, place or content of a weight, or none."""
    weights = model.graph.initializer
    at = random.randrange(len(weights))
    weight = weights[at]
    how = random.choice(("dims", "format", "name", "delete", "cut", "nan", "outside", "double"))
    if how == "dims":
        weight.dims[:] = random.choice(([], [0], [-1], [2**40], [2**31, 2**31], [1] * 30, [*weight.dims, 2]))
    elif how == "format":
        weight.data_type = random.choice((0, 2, 7, 8, 10, 14, 16, 17, 99))
    elif how == "name":
        weight.name = random.choice(("", "x", "logits", "input_ids"))
    elif how == "delete":
        del weights[at]
    elif how == "cut":
        weight.raw_data = weight.raw_data[:-1]
    elif how == "nan":
        weight.raw_data = b"\xff" * len(weight.raw_data)
    elif how == "double":
        weights.add().CopyFrom(weight)
    else:
        size = len(weight.raw_data)
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        place = random.choice(("/etc/passwd", "../../outside/x", "/dev/zero", "nothing", "..", ""))
        for key, value in (
            ("location", place),
            ("offset", random.choice(("0", "-1", "9" * 30, "x"))),
            ("length", str(size)),
        ):
            entry = weight.external_data.add()
            entry.key, entry.value = key, value
        return f"outside {place}"
    return f"weight {weight.name}: {how}"


def value_changed(model: Any, random: Random) -> str:
    """Another name, format or shape of an input or output, or none."""
    values = random.choice((model.graph.input, model.graph.output))
    at = random.randrange(len(values))
    value = values[at]
    how = random.choice(("name", "format", "rank", "size", "delete", "double", "untyped"))
    if how == "name":
        value.name = random.choice(
            ("", "x", "logits", "inputs_embeds", "past_key_values.1.key", "past_key_values.99.value")
        )
    elif how == "format":
        value.type.tensor_type.elem_type = random.choice((0, 6, 8, 9, 10, 99))
    elif how == "rank":
        value.type.tensor_type.shape.dim.add()
    elif how == "size":
        dims = value.type.tensor_type.shape.dim
        dims[random.randrange(len(dims))].dim_value = random.choice((-1, 0, 2, 2**40))
    elif how == "delete":
        del values[at]
    elif how == "double":
        values.add().CopyFrom(value)
    else:
        value.ClearField("type")
    return f"value {value.name}: {how}"


def header_changed(model: Any, random: Random) -> str:
    """Another version, opset or set of functions, or an endless loop in front."""
    how = random.choice(("version", "opset", "no opset", "loop", "empty"))
    if how == "version":
        model.ir_version = random.choice((0, 1, 999, 2**40))
    elif how == "opset":
        model.opset_import[0].version = random.choice((0, 1, 999, 2**40))
    elif how == "no opset":
        del model.opset_import[:]
    elif how == "empty":
        model.ClearField("graph")
    else:
        with_endless_loop(model)
    return f"header: {how}"


def with_endless_loop(model: Any) -> None:
    """Put a loop that never ends in front of the scores."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["again"], ["on"]), helper.make_node("Identity", ["kept"], ["left"])], "body",
        [helper.make_tensor_value_info(name, kind, []) for name, kind in (("turn", 7), ("again", 9), ("kept", 1))],
        [helper.make_tensor_value_info(name, kind, []) for name, kind in (("on", 9), ("left", 1))],
    )  # fmt: skip
    true = helper.make_tensor("forever", onnx.TensorProto.BOOL, [], [True])
    model.graph.initializer.append(true)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("Loop", ["", "forever", "scale"], ["scale_of_loop"], body=body))
    for node in nodes:
        for index, name in enumerate(node.input):
            node.input[index] = "scale_of_loop" if name == "scale" else name
    model.graph.node.extend(nodes)


def order_changed(model: Any, random: Random) -> str:
    """The same nodes in another order."""
    nodes = list(model.graph.node)
    random.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return "shuffled"
