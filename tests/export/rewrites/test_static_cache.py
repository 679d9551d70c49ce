"""A static cache takes and gives whole buffers, writes at a position, and computes what a growing one does."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from export.rewrites.static_cache import make_static, past_length


def test_buffers_have_the_full_length_and_a_position_says_where_to_write(exported) -> None:
    model = exported("grouped", "tensorrt")
    graph = model.decode.graph
    assert model.manifest.cache == "static"
    assert model.decode.opset_imports[""] == 24
    assert [value.name for value in graph.inputs[:2]] == ["tokens", "position"]
    assert (list(graph.inputs[1].shape), graph.inputs[1].dtype) == ([], ir.DataType.INT64)
    for value in (*graph.inputs[2:], *graph.outputs[1:]):
        assert [str(dim) for dim in value.shape] == ["batch", "1", "16", "16"]


def test_every_key_and_value_is_scattered_and_nothing_is_joined_to_a_cache(exported) -> None:
    graph = exported("grouped", "tensorrt").decode.graph
    scatters = [node for node in graph if node.op_type == "TensorScatter"]
    assert len(scatters) == 2 * 2  # layers, key and value
    assert all(node.inputs[0].is_graph_input() and node.outputs[0].is_graph_output() for node in scatters)
    assert [node.outputs[0].name for node in scatters] == [
        node.inputs[0].name.replace("past", "present") for node in scatters
    ]
    joins = [node for node in graph if node.op_type == "Concat"]
    assert not any(value.is_graph_input() for node in joins for value in node.inputs)


def test_a_step_writes_its_own_place_and_no_other(exported, engine_of) -> None:
    session = engine_of(exported("grouped", "tensorrt")).sessions.decode
    generator = np.random.default_rng(0)
    feeds = {"tokens": np.array([[4, 2]]), "position": np.array(5)}
    for value in session.get_inputs()[2:]:
        feeds[value.name] = generator.normal(size=(1, 1, 16, 16)).astype(np.float32)
    outputs = dict(zip([value.name for value in session.get_outputs()], session.run(None, feeds), strict=True))
    for name, past in feeds.items():
        if name.startswith("past."):
            changed = (outputs[name.replace("past", "present")] != past).any(axis=(0, 1, 3))
            assert np.flatnonzero(changed).tolist() == [5, 6]


def test_what_lies_behind_the_position_is_not_seen(exported, engine_of) -> None:
    session = engine_of(exported("grouped", "tensorrt")).sessions.decode
    names = [value.name for value in session.get_inputs()[2:]]
    feeds = {"tokens": np.array([[20]]), "position": np.array(0)}
    clean = {name: np.zeros((1, 1, 16, 16), dtype=np.float32) for name in names}
    dirty = {name: np.full((1, 1, 16, 16), 7, dtype=np.float32) for name in names}
    first, second = (session.run(["logits"], feeds | cache)[0] for cache in (clean, dirty))
    assert (first == second).all()


def test_a_graph_that_counts_no_cached_tokens_cannot_be_made_static(exported) -> None:
    model = exported("rotary", "tensorrt")  # static already: its position is fed
    with pytest.raises(ValueError, match="0 nodes compute the number of cached tokens; need exactly one"):
        make_static(model.decode, 16)
    with pytest.raises(ValueError, match="0 nodes compute"):
        past_length(model.decode.graph)
