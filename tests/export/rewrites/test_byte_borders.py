"""Bytes at the borders of a graph alone: the same numbers, and every graph of a picture builds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from export.building.process import build
from export.building.profiles import WHOLE, profiles
from export.graph.onnx_model import OnnxModel
from export.graph.weights import save_graph
from export.rewrites.byte_borders import keep_bytes_at_the_borders

PALETTE = """<ir_version: 10, opset_import: ["" : 24]>
    g (int64[batch, 4] tokens, uint8[batch, 2, 2, 1] pictures) => (uint8[batch, 4, 1] images, float[batch, 4] halves)
    <uint8[3, 1] palette = {0, 128, 255}, float two = {2.0}, int64[2] flat = {0, 4}> {
        images = Gather (palette, tokens)
        moved = Reshape (pictures, flat)
        floats = Cast <to = 1> (moved)
        halves = Div (floats, two)
    }"""


def run(model: ir.Model, feeds: dict) -> list:
    """What a graph computes."""
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def test_what_moves_bytes_moves_floats_and_gives_the_same_bytes():
    before = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(PALETTE)))
    after = keep_bytes_at_the_borders(before)
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    feeds = {
        "tokens": np.array([[0, 1, 2, 1]]),
        "pictures": np.array([[7, 255], [0, 128]], dtype=np.uint8).reshape(1, 2, 2, 1),
    }
    images, halves = run(after, feeds)
    np.testing.assert_array_equal(images, np.array([[[0], [128], [255], [128]]], dtype=np.uint8))
    np.testing.assert_array_equal(halves, np.array([[3.5, 127.5, 0, 64]], dtype=np.float32))
    assert [node.op_type for node in after.graph] == ["Cast", "Gather", "Reshape", "Cast", "Div", "Cast"]
    assert [node.op_type for node in before.graph] == ["Gather", "Reshape", "Cast", "Div"]  # as it was


def test_a_graph_whose_bytes_are_at_its_borders_is_left_as_it_is(exported: Callable[..., OnnxModel]):
    model = exported("narrow heads", "tensorrt")
    for graph in (model.image_decoder, model.image_encoder):
        again = keep_bytes_at_the_borders(graph)
        assert [node.op_type for node in again.graph] == [node.op_type for node in graph.graph]


@pytest.mark.parametrize("kind", ["narrow heads", "next-scale"])
def test_other_targets_give_the_same_pictures(exported: Callable[..., OnnxModel], kind: str):
    plain = exported(kind, "standard")
    tokens = np.random.default_rng(0).integers(0, 17, (3, plain.manifest.shape.length))
    for before, after in zip(
        run(plain.image_decoder, {"tokens": tokens}),
        run(keep_bytes_at_the_borders(plain.image_decoder), {"tokens": tokens}),
        strict=True,
    ):
        np.testing.assert_array_equal(before, after)


@pytest.mark.tensorrt_rtx
def test_tensorrt_builds_pictures_with_bytes_at_the_borders_and_no_others(
    exported: Callable[..., OnnxModel], tmp_path: Path
):
    plain = exported("narrow heads", "standard")
    assert plain.image_encoder is not None
    for graph in (plain.image_decoder, plain.image_encoder):
        for model, builds in ((graph, False), (keep_bytes_at_the_borders(graph), True)):
            (path,) = save_graph(model, tmp_path / "pictures.onnx")
            answer = build(path, profiles(model.graph, {WHOLE: {"batch": (1, 2, 4)}}), [["8.6", "8.9", "12.0"]], 120)
            assert (not answer.unparsed) == builds
            assert all(each.plan for each in answer.attempts)
