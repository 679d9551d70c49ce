"""A foreign decoder is driven like an own one: its logits are those of PyTorch on the ids that a picture is written in.

Letters: N pictures, T tokens of a picture, V image tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from compress.models.tokenizer.model import PixelTokenizer
from export.foreign.adopt import adopt, parameters, rounds_by_call
from export.foreign.signature import AdoptionError
from export.foreign.writing import Writing
from export.graph.onnx_model import FILES, OnnxModel
from export.runtime.engine import Engine
from export.runtime.manifest import Manifest
from export.runtime.sampling import Sampler
from export.targets.conformance import violations
from export.tracing.export import Pictures

IMAGE_IDS = (*range(40, 50), 33, *range(51, 57))  # 17 grey levels, one of them out of order
WRITINGS = {
    "one id for one token": Writing((3, 2), IMAGE_IDS, ((1,),)),
    "classes": Writing((3, 2), IMAGE_IDS, ((1,), (2,), (3,))),
    "prompts": Writing((3, 2), IMAGE_IDS, ((5, 1, 6), (5, 2, 6), (5, 3, 6))),
    "rows that end": Writing((3, 2), IMAGE_IDS, ((1,), (2,)), row_end=(60, 61)),
    "prompts of different lengths": Writing((3, 2), IMAGE_IDS, ((5, 1, 6), (7,), (5, 4)), row_end=(62,)),
}


@dataclass(frozen=True)
class Driven:
    """An adopted decoder as an engine, and what PyTorch says."""

    engine: Engine
    model: OnnxModel
    inputs: NDArray[np.int64]
    expected: NDArray[np.float32]


def spelled(writing: Writing, label: int, tokens: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """A picture's ids, written out by hand, and where each token is predicted."""
    ids = list(writing.prompts[label])
    predicting = [len(ids) - 1]
    for place, token in enumerate(tokens[:-1]):
        ids.append(writing.image_ids[token])
        if (place + 1) % writing.grid[1] == 0:
            ids += writing.row_end
        predicting.append(len(ids) - 1)
    return ids, predicting


def make(source: ir.Model, writing: Writing) -> OnnxModel:
    """An adopted graph with grey levels for pictures."""
    made = adopt(source, writing)
    tokenizer = PixelTokenizer(17, writing.grid)
    manifest = Manifest(
        "foreign", "onnx", "onnxruntime", "growing" if made.kv_heads else "none", writing.shape, made.head_width,
        made.kv_heads, Sampler(), parameters(made.decode), files={n: FILES[n] for n in ("decode", "image_decoder")},
    )  # fmt: skip
    pictures = Pictures(tokenizer.decoder(), None, tokenizer.length, tokenizer.picture)
    return OnnxModel(made.decode, pictures.decoder_graph, manifest)


@pytest.fixture
def drive(foreign, tmp_path: Path) -> Callable[..., Driven]:
    """Adopt a foreign decoder with a writing, and score five pictures in PyTorch."""

    def run(writing: Writing, **changes: int) -> Driven:
        found = foreign(**changes)
        model = make(ir.load(found.path), writing)
        model.save(tmp_path)
        generator = np.random.default_rng(0)
        labels, tokens = np.arange(5) % len(writing.prompts), generator.integers(0, 17, size=(5, 6))
        expected = []
        for label, row in zip(labels, tokens, strict=True):
            ids, predicting = spelled(writing, int(label), row)
            given = torch.tensor([ids])
            empty = [torch.zeros(1, 2, 0, 4)] * (4 if model.manifest.kv_heads else 0)
            with torch.no_grad():
                logits = found.module(given, torch.ones_like(given), torch.arange(len(ids))[None], *empty)[0]
            expected.append(logits[0, predicting][:, list(IMAGE_IDS)].numpy())
        inputs = np.concatenate([17 + labels[:, None], tokens[:, :-1]], axis=1)
        return Driven(Engine.load(tmp_path, threads=1), model, inputs, np.stack(expected))

    return run


@pytest.mark.parametrize("writing", WRITINGS.values(), ids=WRITINGS.keys())
def test_logits_are_those_of_pytorch_in_one_call_and_step_by_step(drive, writing: Writing) -> None:
    driven = drive(writing)
    assert driven.expected.std() > 0.1
    np.testing.assert_allclose(driven.engine.score(driven.inputs), driven.expected, atol=1e-5)
    np.testing.assert_allclose(driven.engine.score_stepwise(driven.inputs), driven.expected, atol=1e-5)


@pytest.mark.parametrize("writing", WRITINGS.values(), ids=WRITINGS.keys())
def test_what_was_adopted_keeps_every_rule(drive, writing: Writing) -> None:
    assert violations(drive(writing).model) == []


def test_the_likeliest_tokens_are_drawn_as_pytorch_would(drive, foreign) -> None:
    writing = WRITINGS["prompts of different lengths"]
    drawn = drive(writing).engine.draw_tokens(np.array([0, 1, 2]), sampler=Sampler(temperature=0.0))
    for label in range(3):
        ids, tokens = list(writing.prompts[label]), []
        for place in range(6):
            given = torch.tensor([ids])
            empty = [torch.zeros(1, 2, 0, 4)] * 4
            with torch.no_grad():
                logits = foreign().module(given, torch.ones_like(given), torch.arange(len(ids))[None], *empty)[0]
            tokens.append(int(logits[0, -1, list(IMAGE_IDS)].argmax()))
            ids += [IMAGE_IDS[tokens[-1]], *(writing.row_end if place % 2 else ())]
        assert drawn[label].tolist() == tokens


@pytest.mark.parametrize("writing", WRITINGS.values(), ids=WRITINGS.keys())
def test_a_decoder_without_a_cache_reads_everything_at_every_step(drive, writing: Writing) -> None:
    driven = drive(writing, cached=False)
    assert (driven.model.manifest.cache, driven.model.manifest.kv_heads) == ("none", ())
    np.testing.assert_allclose(driven.engine.score(driven.inputs), driven.expected, atol=1e-5)
    np.testing.assert_allclose(driven.engine.score_stepwise(driven.inputs), driven.expected, atol=1e-5)


def test_only_rows_and_columns_that_can_be_reached_are_kept(drive) -> None:
    weights = drive(WRITINGS["prompts"]).model.decode.graph.initializers
    assert tuple(weights["adopted.embedding.weight"].shape) == (17 + 5, 16)  # five ids in all prompts
    assert tuple(weights["adopted.head.weight"].shape) == (16, 17)
    assert max(value.shape[0] for name, value in weights.items() if "embedding" in name) == 22


def test_a_token_that_is_one_id_costs_three_small_lookups_at_most(drive) -> None:
    new = [node for node in drive(WRITINGS["classes"]).model.decode.graph if (node.name or "").startswith("/adopted/")]
    assert sum(node.op_type == "Gather" for node in new) <= 2
    assert not [node for node in new if node.op_type == "Slice"]


def test_the_foreign_graph_is_left_as_it_was(foreign) -> None:
    source = ir.load(foreign().path)
    before = ir.to_proto(source).SerializeToString()
    adopt(source, WRITINGS["prompts"])
    assert ir.to_proto(source).SerializeToString() == before


def test_prompts_of_different_lengths_make_every_call_read_the_classes() -> None:
    assert WRITINGS["prompts of different lengths"].shape.labelled
    assert not WRITINGS["prompts"].shape.labelled


def test_the_places_of_ids_are_worked_by_hand() -> None:
    writing = Writing((2, 2), (10, 11), ((1, 2), (3, 4)), row_end=(9,))
    assert writing.table.tolist() == [10, 11, 1, 2, 3, 4, 9]
    assert writing.lengths.tolist() == [2, 1, 2, 1]
    owner, factor, offset = writing.owners
    assert owner.tolist() == [0, 0, 1, 2, 2, 3]
    # Class 1 has the id 3: its prompt lies at 3 * 2 - 2 = 4 and 5. Image tokens lie at their own ids.
    assert (3 * factor + offset)[:2].tolist() == [4, 5]
    assert (1 * factor + offset)[[2, 3, 5]].tolist() == [1, 1, 1]
    assert (1 * factor + offset)[4] == 6


def edited(foreign, edit: Callable[[ir.Model], None]) -> ir.Model:
    """A foreign graph with something changed."""
    model = ir.load(foreign().path)
    edit(model)
    return model


def rename_input(old: str, new: str) -> Callable[[ir.Model], None]:
    """Another name for an input."""

    def edit(model: ir.Model) -> None:
        next(value for value in model.graph.inputs if value.name == old).name = new

    return edit


def cache_of_numbers(model: ir.Model) -> None:
    """Pretend that keys are kept in int8."""
    model.graph.inputs[3].type = ir.TensorType(ir.DataType.INT8)


def shape_cache(dims: list[int | str] | None) -> Callable[[ir.Model], None]:
    """Another shape of the first layer's keys."""

    def edit(model: ir.Model) -> None:
        model.graph.inputs[3].shape = None if dims is None else ir.Shape(dims)

    return edit


def opset(version: int) -> Callable[[ir.Model], None]:
    """Pretend that the graph is of another opset."""

    def edit(model: ir.Model) -> None:
        model.opset_imports[""] = version

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            rename_input("input_ids", "tokens"),
            "its inputs are tokens, attention_mask, position_ids, past_key_values.0.key, past_key_values.0.value, "
            "past_key_values.1.key and 1 more, its outputs logits, present.0.key, present.0.value, present.1.key, "
            "present.1.value; of a causal decoder needed are input_ids, attention_mask",
        ),
        (cache_of_numbers, "past_key_values.0.key is INT8; a cache of floats is needed: export the model again"),
        (
            shape_cache(["batch", "heads", "past", 4]),
            "past_key_values.0.key is (batch, heads, past, 4); (batch, heads, positions, width) with numbers is "
            "needed, in the graph or in a config.json beside it",
        ),
        (shape_cache(["batch", 0, "past", 4]), "past_key_values.0.key is (batch, 0, past, 4);"),
        (shape_cache(["batch", "past", 4]), "past_key_values.0.key is (batch, past, 4);"),
        (shape_cache(None), "past_key_values.0.key is of unknown shape;"),
        (opset(13), "its opset is 13; export it again with opset 15 or later"),
        (opset(99), "its opset is 99; onnx "),
    ],
)
def test_what_is_no_decoder_of_the_known_kind_is_said(foreign, edit, words: str) -> None:
    with pytest.raises(AdoptionError) as error:
        adopt(edited(foreign, edit), WRITINGS["classes"])
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("writing", "words"),
    [
        (Writing((1, 2), (62, 63, 64), ((1,),)), "id 64 is named, but its embedding has 64 rows"),
        (Writing((1, 2), (62, 63), ((70,),)), "id 70 is named, but its embedding has 64 rows"),
    ],
)
def test_ids_that_the_decoder_does_not_know_are_named(foreign, writing: Writing, words: str) -> None:
    with pytest.raises(AdoptionError, match=words):
        adopt(ir.load(foreign().path), writing)


def test_a_writing_needs_an_id_before_the_picture_and_different_image_ids() -> None:
    with pytest.raises(ValueError, match="a decoder predicts the first token from at least one id before it"):
        Writing((1, 2), (1, 2), ((),))
    with pytest.raises(ValueError, match="two image tokens have the same id"):
        Writing((1, 2), (1, 1), ((3,),))


def test_heads_that_the_graph_does_not_say_come_from_the_config_beside_it(foreign) -> None:
    source = edited(foreign, shape_cache(["batch", "heads", "past", "width"]))
    assert adopt(source, WRITINGS["classes"], lambda: (2, 4)).kv_heads == (2, 2)


def halved(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph in fp16, cache and logits too, as converters write it."""
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
            )
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.t.data_type == onnx.TensorProto.FLOAT:
                values = np.maximum(onnx.numpy_helper.to_array(attribute.t), -6e4).astype(np.float16)
                attribute.t.CopyFrom(onnx.numpy_helper.from_array(values))
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT:
                attribute.i = onnx.TensorProto.FLOAT16
    del proto.graph.value_info[:]
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return proto


def test_a_decoder_in_half_precision_is_cast_at_its_border(drive, foreign, tmp_path: Path) -> None:
    driven = drive(WRITINGS["prompts"])
    made = adopt(ir.from_proto(halved(onnx.load(foreign().path))), WRITINGS["prompts"])
    assert made.rounds
    assert {value.dtype for value in (*made.decode.graph.inputs[1:], *made.decode.graph.outputs)} == {ir.DataType.FLOAT}
    (tmp_path / "half").mkdir()
    dataclasses.replace(driven.model, decode=made.decode).save(tmp_path / "half")
    engine = Engine.load(tmp_path / "half", threads=1)
    for found in (engine.score(driven.inputs), engine.score_stepwise(driven.inputs)):
        assert 0 < np.abs(found - driven.expected).max() < 0.01


def test_names_of_the_foreign_graph_may_be_those_that_are_written_here(drive, foreign) -> None:
    driven, source = drive(WRITINGS["prompts"]), ir.load(foreign().path)
    names = ["tokens", "labels", "past.0.key", "adopted.table", "/adopted/ids_output", "all_logits", 'one\nline "x"']
    inner = [node.outputs[0] for node in source.graph if not node.outputs[0].is_graph_output()]
    for value, name in zip(inner, names, strict=False):
        value.name = name
    for value in list(source.graph.initializers.values())[:1]:
        value.name = "adopted.zero"
    made = adopt(source, WRITINGS["prompts"]).decode
    feeds = driven.engine.feeds(driven.inputs, None)
    session = onnxruntime.InferenceSession(ir.to_proto(made).SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(["logits"], feeds)[0], driven.expected, atol=1e-5)


def test_constants_that_are_listed_as_inputs_are_constants(drive, foreign) -> None:
    driven, proto = drive(WRITINGS["prompts"]), onnx.load(foreign().path)
    for each in proto.graph.initializer:
        proto.graph.input.append(onnx.helper.make_tensor_value_info(each.name, each.data_type, each.dims))
    proto.ir_version = 3
    made = adopt(ir.from_proto(proto), WRITINGS["prompts"]).decode
    assert made.ir_version >= 4
    assert [value.name for value in made.graph.inputs] == [v.name for v in driven.model.decode.graph.inputs]


def merged(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A decoder with one branch for an empty cache, which forgets the past, and one for the rest, like optimum's."""
    graph, helper = proto.graph, onnx.helper
    outputs = list(graph.output)
    past = [value for value in graph.input if value.name.startswith("past")]
    nodes = list(graph.node)
    branches = {}
    for name in ("then_branch", "else_branch"):
        branches[name] = helper.make_graph(nodes, name, [], outputs)
    for index, node in enumerate(branches["else_branch"].node):
        kept = [each for each in node.input if not each.startswith("past")]
        if len(kept) < len(node.input) and node.op_type == "Concat":
            node.CopyFrom(helper.make_node("Identity", kept, node.output, f"forget_{index}"))
    del graph.node[:]
    graph.node.append(helper.make_node("If", ["use_cache_branch"], [value.name for value in outputs], "if", **branches))
    graph.input.append(helper.make_tensor_value_info("use_cache_branch", onnx.TensorProto.BOOL, [1]))
    assert past
    return proto


@pytest.mark.parametrize("writing", ["classes", "rows that end"])
def test_a_merged_decoder_takes_the_branch_of_its_cache(drive, foreign, tmp_path: Path, writing: str) -> None:
    driven = drive(WRITINGS[writing])
    made = adopt(ir.from_proto(merged(onnx.load(foreign().path))), WRITINGS[writing])
    assert any(node.op_type == "If" for node in made.decode.graph)
    (tmp_path / "merged").mkdir()
    dataclasses.replace(driven.model, decode=made.decode).save(tmp_path / "merged")
    engine = Engine.load(tmp_path / "merged", threads=1)
    np.testing.assert_allclose(engine.score(driven.inputs), driven.expected, atol=1e-5)
    np.testing.assert_allclose(engine.score_stepwise(driven.inputs), driven.expected, atol=1e-5)


@pytest.mark.parametrize(
    ("operator", "domain", "rounds"),
    [("MatMulNBits", "com.microsoft", True), ("DynamicQuantizeLinear", "", True), ("QuantizeLinear", "", True),
     ("Relu", "", False)],
)  # fmt: skip
def test_products_that_round_by_the_call_are_recognised(foreign, operator: str, domain: str, rounds: bool) -> None:
    source = ir.load(foreign().path)
    found = next(node for node in source.graph if node.op_type == "Tanh")
    found.op_type, found.domain = operator, domain
    assert rounds_by_call(source.graph) is rounds
