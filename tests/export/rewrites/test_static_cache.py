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
    session = engine_of(exported("grouped", "tensorrt")).graphs.sessions.decode
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
    session = engine_of(exported("grouped", "tensorrt")).graphs.sessions.decode
    names = [value.name for value in session.get_inputs()[2:]]
    feeds = {"tokens": np.array([[20]]), "position": np.array(0)}
    clean = {name: np.zeros((1, 1, 16, 16), dtype=np.float32) for name in names}
    dirty = {name: np.full((1, 1, 16, 16), 7, dtype=np.float32) for name in names}
    first, second = (session.run(["logits"], feeds | cache)[0] for cache in (clean, dirty))
    assert (first == second).all()


def test_a_graph_that_counts_no_cached_tokens_cannot_be_made_static(exported) -> None:
    model = exported("rotary", "tensorrt")  # static already: its position is fed
    with pytest.raises(ValueError, match="0 nodes compute the number of cached tokens; need exactly one"):
        make_static(model.decode, model.manifest.shape)
    with pytest.raises(ValueError, match="0 nodes compute"):
        past_length(model.decode.graph)


def test_the_mask_is_added_to_scores_and_one_for_all_layers(exported) -> None:
    graph = exported("rotary", "tensorrt").decode.graph
    (mask,) = {node.inputs[3] for node in graph if node.op_type == "Attention"}
    assert mask.producer().op_type == "Where"
    seen, unseen = (float(value.const_value.numpy()) for value in mask.producer().inputs[1:])
    assert (seen, unseen) == (0.0, float(np.finfo(np.float16).min))


def test_no_attention_states_a_scale(exported) -> None:
    grown = [node for node in exported("next-scale", "standard").decode.graph if node.op_type == "Attention"]
    assert all(node.attributes["scale"].as_float() == 1.0 for node in grown)
    graph = exported("next-scale", "tensorrt").decode.graph
    for node in (node for node in graph if node.op_type == "Attention"):
        assert "scale" not in node.attributes
        assert float(node.inputs[0].producer().inputs[1].const_value.numpy()) == 4.0  # the root of the width, 16


def test_a_scale_sees_all_of_itself_and_a_call_of_tokens_only_what_is_before(exported, engine_of) -> None:
    for kind, alike in (("next-scale", True), ("rotary", False)):
        engine = engine_of(exported(kind, "tensorrt"))
        session, generator = engine.graphs.sessions.decode, np.random.default_rng(0)
        feeds = {"position": np.array(1)}
        for value in session.get_inputs():
            if value.name.startswith("past."):
                feeds[value.name] = generator.normal(size=(1, *value.shape[1:])).astype(np.float32)
        if kind == "next-scale":
            read = generator.normal(size=(2, 4, 6)).astype(np.float32)
            feeds["labels"] = np.array([3])
        else:
            read = np.array([[4, 2, 3, 1], [4, 2, 3, 7]])
        read[1, :-1] = read[0, :-1]
        first, other = (session.run(["logits"], feeds | {"tokens": tokens[None]})[0][0, 0] for tokens in read)
        assert (first == other).all() != alike  # the first position sees the last one, or not


def test_rows_of_a_text_are_read_at_its_positions_however_a_call_is_cut(exported, engine_of) -> None:
    session = engine_of(exported("text", "tensorrt")).graphs.sessions.decode
    generator = np.random.default_rng(0)
    given = {
        "valid": np.array([[True, True, True, False, True]]),
        "begin.text.down.0": generator.normal(size=(1, 5, 32)).astype(np.float32),
    }
    tokens = generator.integers(0, 17, (1, 9))
    caches = [value for value in session.get_inputs() if value.name.startswith("past.")]

    def logits(cuts: list[int], tokens: np.ndarray) -> np.ndarray:
        past = {value.name: np.zeros((1, *value.shape[1:]), dtype=np.float32) for value in caches}
        found, start = [], 0
        for part in np.split(tokens, cuts, axis=1):
            feeds = given | past | {"tokens": part, "position": np.array(start)}
            names = ["logits", *(name.replace("past", "present") for name in past)]
            made, *present = session.run(names, feeds)
            found.append(made)
            past, start = dict(zip(past, present, strict=True)), start + part.shape[1]
        return np.concatenate(found, axis=1)

    whole = logits([], tokens)
    np.testing.assert_allclose(logits([5], tokens), whole, rtol=0, atol=2e-5)
    np.testing.assert_allclose(logits([2, 7, 8], tokens), whole, rtol=0, atol=2e-5)
    others = np.concatenate([16 - tokens[:, :5], tokens[:, 5:]], axis=1)  # in whose places the text is read
    assert (logits([], others) == whole).all()
