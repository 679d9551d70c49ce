"""What the layers of really built plans show, and what they show where the builder unpacks weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_graphs as small

from calibration.tokens import TokenSet
from compress.models.image_model import ImageModel
from compress.passes import Context
from compress.passes.export import Export
from compress.passes.quantize import Quantize
from export.building.evidence import evidence
from export.building.layers import LayersError, layers
from export.building.process import build
from export.building.profiles import WHOLE, Rows, decode_sizes, profiles
from export.graph.graph_file import load_graph
from export.graph.onnx_model import OnnxModel
from export.rewrites.fusions import fuse
from export.runtime.built import Evidence

pytestmark = pytest.mark.tensorrt_rtx


def shown(model: onnx.ModelProto, folder: Path) -> Evidence:
    """The evidence of a small graph."""
    path = small.written(model, folder)
    graph = load_graph(path).graph
    (attempt,) = build(path, profiles(graph, {WHOLE: {"batch": (1, 2, 16)}}), [["8.9", "12.0"]], 120).attempts
    assert attempt.plan, attempt.refused
    (found,) = evidence(graph, layers(attempt.layers), [WHOLE])
    return found


@pytest.mark.parametrize(
    ("product", "types"),
    [
        (small.product("fp32", "int8", both=True), "Int8 x Int8"),
        (small.product("fp16", "fp8", both=True), "FP8 x FP8"),
        (small.product("fp16", "int8"), "Half x Int8"),
        (small.product("fp16", "int4", group=64), "Half x Int4"),
        (small.product("fp32", "int8", both=True, parts=2), "Int8 x Int8"),
    ],
)
def test_a_product_that_runs_in_low_precision_is_seen_to(product: onnx.ModelProto, types: str, tmp_path: Path):
    found = shown(product, tmp_path)
    assert (found.products, found.asked, found.low, found.unpacked) == ({types: 1}, 1, 1, 0)


def test_a_product_in_float_asks_for_nothing(tmp_path: Path):
    found = shown(small.product("fp16"), tmp_path)
    assert (found.products, found.asked, found.low) == ({"Half x Half": 1}, 0, 0)


def test_int4_without_a_group_is_unpacked_by_a_kernel_of_its_own(tmp_path: Path):
    found = shown(small.product("fp16", "int4"), tmp_path)
    assert (found.products, found.low, found.unpacked) == ({"Half x Half": 1}, 0, 1)
    assert found.in_float == ("/product",)


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., ImageModel], tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """A model of one layer in int8, as wide as the rewrites of the builder need, exported for TensorRT."""
    made = tiny_model(layers=1, heads=4, head_width=32, width=128)
    labels = np.arange(8)
    tokens = TokenSet(np.random.default_rng(0).integers(0, 17, (8, 64)), labels, np.zeros(8, dtype=np.int64))
    context = Context(made, tokens, 8, 0, tmp_path_factory.mktemp("room"))
    return (
        Export("tensorrt")
        .run(Quantize(activations="int8", down="same", head="float").run(made, context).model, context)
        .model
    )


def decoding(model: OnnxModel, folder: Path) -> Evidence:
    """The evidence of a step."""
    model.save(folder)
    asked = profiles(model.decode.graph, decode_sizes(model.manifest.shape, Rows(1, 2, 4)))
    (attempt,) = build(folder / "decode.onnx", asked, [["8.6", "8.9", "12.0"]], 120).attempts
    (found,) = evidence(model.decode.graph, layers(attempt.layers), ["step"])
    return found


def test_attention_is_one_kernel_and_the_cache_is_updated_where_it_lies(model: OnnxModel, tmp_path: Path):
    found = decoding(model, tmp_path)
    assert (found.asked, found.low, found.unpacked) == (7, 7, 0)
    assert (found.attentions, found.fused) == (1, 1)
    assert (found.caches, found.in_place) == (2, 2)


def test_a_product_that_is_cut_into_queries_keys_and_values_falls_back_to_float(model: OnnxModel, tmp_path: Path):
    """The reason why `qkv` is no fusion for this target."""
    found = decoding(fuse(model, ("qkv", "gate-up"), "growing").model, tmp_path)
    assert found.in_float == ("/blocks/0/attention/qkv/MatMul",)
    assert (found.asked, found.low, found.unpacked) == (4, 3, 1)
    assert found.products["Int8 x Float"] == 1


def test_a_growing_cache_is_not_updated_where_it_lies(exported: Callable[..., OnnxModel], tmp_path: Path):
    found = decoding(exported("narrow heads", "standard"), tmp_path)
    assert (found.caches, found.in_place) == (2, 0)


def test_a_profile_without_layers_is_refused(tmp_path: Path):
    path = small.written(small.product("fp16"), tmp_path)
    graph = load_graph(path).graph
    (attempt,) = build(path, profiles(graph, {WHOLE: {"batch": (1, 2, 16)}}), [["8.9"]], 120).attempts
    with pytest.raises(LayersError, match=r"^the builder's log lists no layer of the profile prefill$"):
        evidence(graph, layers(attempt.layers), ["step", "prefill"])
