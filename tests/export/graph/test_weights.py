"""Many weights lie beside their graph, and everything that opens, checks and copies an engine reads them there."""

from __future__ import annotations

import os
from unittest import mock

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from export.graph.graph_file import load_graph
from export.graph.inference import without_weights
from export.graph.onnx_model import OnnxModel
from export.graph.weights import bytes_beside, save_graph, weight_bytes
from export.rewrites.ort_quantization import quantize_weights
from export.runtime.engine import Engine, EngineError
from export.targets import fuse
from export.targets.conformance import violations

WIDTH = 160


@pytest.fixture
def small_limits():
    """Limits that a tiny model is above."""
    with mock.patch("export.graph.weights.BESIDE", 1000), mock.patch("export.graph.weights.SMALLEST", 256):
        yield


def product(weight):
    """x (B, K) times a constant weight (K, N)."""
    x = ir.Value(name="x", shape=ir.Shape(["batch", weight.shape[0]]), type=ir.TensorType(ir.DataType.FLOAT))
    held = ir.Value(
        name="w", const_value=ir.tensor(weight), shape=ir.Shape(weight.shape), type=ir.TensorType(ir.DataType.FLOAT)
    )
    node = ir.Node("", "MatMul", [x, held])
    y = node.outputs[0]
    y.name, y.type, y.shape = "y", x.type, ir.Shape(["batch", weight.shape[1]])
    graph = ir.Graph([x], [y], nodes=[node], initializers=[held], opset_imports={"": 23}, name="g")
    return ir.Model(graph, ir_version=11)


def test_few_weights_stay_inside_and_many_lie_beside(tmp_path):
    weight = np.random.default_rng(0).normal(size=(WIDTH, WIDTH)).astype(np.float32)
    model = product(weight)
    assert weight_bytes(model) == weight.nbytes
    assert save_graph(model, tmp_path / "inside.onnx") == [tmp_path / "inside.onnx"]
    with mock.patch("export.graph.weights.BESIDE", weight.nbytes):
        files = save_graph(model, tmp_path / "beside.onnx")
    assert [file.name for file in files] == ["beside.onnx", "beside.onnx.data"]
    assert files[0].stat().st_size < 1000
    assert files[1].read_bytes() == weight.tobytes()
    loaded = ir.load(files[0])
    assert bytes_beside(loaded) == weight.nbytes
    assert bytes_beside(ir.load(tmp_path / "inside.onnx")) == 0
    x = np.ones((2, WIDTH), dtype=np.float32)
    session = onnxruntime.InferenceSession(str(files[0]), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], x @ weight, rtol=1e-4, atol=1e-4)


def test_weights_that_have_several_names_are_read_and_written_again(tmp_path):
    weight = np.ones((WIDTH, WIDTH), dtype=np.float32)
    path, data = save_graph(product(weight), tmp_path / "a.onnx", limit=0)
    os.link(data, tmp_path / "backup")
    (tmp_path / "copy").mkdir()
    loaded = load_graph(path)
    _, again = save_graph(loaded, tmp_path / "copy" / "b.onnx", limit=0)
    assert again.read_bytes() == weight.tobytes()
    assert str(tmp_path).encode() not in (tmp_path / "copy" / "b.onnx").read_bytes()
    save_graph(loaded, tmp_path / "copy" / "c.onnx")
    assert str(tmp_path).encode() not in (tmp_path / "copy" / "c.onnx").read_bytes()


def test_weights_read_from_beside_a_graph_are_written_by_their_size_alone(tmp_path):
    weight = np.ones((WIDTH, WIDTH), dtype=np.float32)
    path, _ = save_graph(product(weight), tmp_path / "a.onnx", limit=0)
    (tmp_path / "copy").mkdir()
    _, data = save_graph(ir.load(path), tmp_path / "copy" / "b.onnx", limit=0)
    assert data.name == "b.onnx.data"
    assert data.read_bytes() == weight.tobytes()
    assert save_graph(ir.load(path), tmp_path / "copy" / "c.onnx") == [tmp_path / "copy" / "c.onnx"]
    assert bytes_beside(ir.load(tmp_path / "copy" / "c.onnx")) == 0


def test_the_checker_sees_types_and_shapes_of_weights_but_not_the_weights():
    weight = np.ones((WIDTH, WIDTH), dtype=np.float32)
    model = product(weight)
    light = without_weights(model)
    assert [value.name for value in light.graph.inputs] == ["x", "w"]
    assert not light.graph.initializers
    assert [value.name for value in model.graph.inputs] == ["x"], "the model itself is as it was"
    assert list(light.graph.inputs[1].shape) == [WIDTH, WIDTH]


@pytest.mark.usefixtures("small_limits")
def test_an_engine_with_weights_beside_draws_scores_and_is_fused_and_quantized_as_one_with_them_inside(
    exported, engine_of, inputs, tmp_path
):
    model = exported("rotary")
    model.save(tmp_path)
    beside = OnnxModel.load(tmp_path)
    assert beside.manifest.files["decode_weights"] == "decode.onnx.data"
    assert bytes_beside(beside.decode) > 1000
    with mock.patch("export.graph.weights.BESIDE", 2**40):
        inside = engine_of(model)
        fused_inside = engine_of(fuse(model).model)
    assert "decode_weights" not in inside.manifest.files
    np.testing.assert_array_equal(Engine.load(tmp_path, threads=1).score(inputs), inside.score(inputs))
    assert violations(beside) == []
    fused = fuse(beside).model
    assert violations(fused) == []
    np.testing.assert_array_equal(engine_of(fused).score(inputs), fused_inside.score(inputs))
    options = {"bits": 8, "group": 32, "symmetric": False, "head": True}
    ours, theirs = (quantize_weights(each, **options).decode for each in (beside.decode, model.decode))
    assert ir.to_proto(ours).SerializeToString() == ir.to_proto(theirs).SerializeToString()


@pytest.mark.usefixtures("small_limits")
def test_damaged_weights_are_found_when_an_engine_is_opened(exported, tmp_path):
    exported("rotary").save(tmp_path)
    path = tmp_path / "decode.onnx.data"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(EngineError, match=r"decode\.onnx\.data: damaged"):
        Engine.load(tmp_path)
    path.unlink()
    with pytest.raises(EngineError, match=r"decode\.onnx\.data: missing"):
        OnnxModel.load(tmp_path)
