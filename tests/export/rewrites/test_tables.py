"""Quantized tables of embeddings, and heads tied to them: graphs of each target against the layer in PyTorch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnxruntime
import pytest

from compress.models.transformer.embedding import group_of
from compress.models.transformer.examples import examples
from compress.passes import PassError
from compress.passes.export import Export
from compress.passes.fuse import Fuse
from compress.passes.hoist import Hoist
from compress.passes.quantize import Quantize
from export.graph.builder import constant
from export.runtime.engine import Engine

LOOKED_UP = {"onnxruntime": "GatherBlockQuantized", "standard": "Gather"}
KINDS = {
    "own head": {},
    "tied head": {"tied_head": True},
    "tied head of a masked model": {
        "tied_head": True,
        "order": "masked",
        "positions": "learned",
        "modulation": "class",
    },
}
DYNAMIC = {"activations": "int8", "dynamic": True, "head": "same"}


def exported(model, context, target, **settings):
    """The quantized model, and its engine's graphs."""
    quantized = Quantize(**{"weights": "int8", "embedding": "int8", **settings}).run(model, context).model
    return quantized, Export(target).run(quantized, context).model


FORMATS = {
    "weights alone": {},
    "dynamic": DYNAMIC,
    "int4": {"embedding": "int4"},
    "int4 in groups, zero points": {"embedding": "int4", "group": 16, "symmetric": False},
    "int4 in groups, dynamic": {"embedding": "int4", "group": 16, **DYNAMIC},
}
formats = pytest.mark.parametrize("settings", FORMATS.values(), ids=FORMATS)


@formats
@pytest.mark.parametrize("target", ["onnxruntime", "standard"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_reads_the_table_as_the_layer_does(
    tiny_model, tiny_tokens, context, tmp_path, kind, target, settings
):
    model = tiny_model(**KINDS[kind])
    quantized, graphs = exported(model, context(model), target, **settings)
    batch = examples(model.shape, tiny_tokens.part("held_out", 4))
    for steps in ([], [Hoist(), Fuse()]):
        for step in steps:
            graphs = step.run(graphs, context(model)).model
        folder = tmp_path / str(len(steps))
        folder.mkdir()
        graphs.save(folder)
        scores = Engine.load(folder).score(batch.inputs)
        # Where inputs are rounded as they come, sums in another order move single ones to the next code.
        apart = np.abs(scores - quantized.score(batch.inputs))
        assert apart.max() < (0.05 if "dynamic" in settings else 2e-4)
        assert np.median(apart) < 2e-5
    wanted = np.abs(model.score(batch.inputs)).max() * (1.5 if "embedding" in settings else 0.1)
    assert 0 < np.abs(quantized.score(batch.inputs) - model.score(batch.inputs)).max() < wanted


@formats
def test_a_tied_head_and_the_embedding_are_one_table(tiny_model, context, settings) -> None:
    model = tiny_model(tied_head=True)
    quantized, graphs = exported(model, context(model), "onnxruntime", **settings)
    rows, width = quantized.transformer.embedding.weight.shape
    size = rows * width // (2 if "embedding" in settings else 1)
    shared = [value for value in graphs.decode.graph.initializers.values() if value.name.startswith("embedding.")]
    (table,) = [value for value in shared if constant(value).size == size]
    assert constant(table).dtype == np.uint8
    for value in shared:  # the codes and what goes with them are all read by both
        if value.name in (table.name, "embedding.weight_scale", "embedding.zero_bytes"):
            assert {use.node.op_type for use in value.uses()} >= {"GatherBlockQuantized"}
            assert len(value.uses()) == 2 or settings == {}
    assert len(table.uses()) == 2


def test_a_table_in_four_bits_takes_half_a_byte_a_number(tiny_model, context) -> None:
    model = tiny_model()
    _, graphs = exported(model, context(model), "onnxruntime", embedding="int4", group=16, symmetric=False)
    table = {name: constant(each) for name, each in graphs.decode.graph.initializers.items() if "embedding" in name}
    assert {name: (each.dtype.name, each.shape) for name, each in table.items()} == {
        "embedding.bytes": ("uint8", (28, 16)),
        "embedding.weight_scale": ("float32", (28, 2)),
        "embedding.zero_bytes": ("uint8", (28, 1)),
    }


@pytest.mark.parametrize("target", LOOKED_UP)
def test_rows_are_looked_up_by_the_operators_of_the_target(tiny_model, context, target) -> None:
    model = tiny_model()
    _, graphs = exported(model, context(model), target)
    counts = Counter(node.op_type for node in graphs.decode.graph)
    assert counts[LOOKED_UP[target]] >= 1
    assert "compress" not in graphs.decode.opset_imports


def test_a_table_in_half_precision_is_read_exactly(tiny_model, tiny_tokens, context, tmp_path) -> None:
    model = tiny_model()
    quantized, graphs = exported(model, context(model), "onnxruntime", embedding="fp16")
    graphs.save(tmp_path)
    batch = examples(model.shape, tiny_tokens.part("held_out", 4))
    np.testing.assert_allclose(
        Engine.load(tmp_path).score(batch.inputs), quantized.score(batch.inputs), rtol=0, atol=2e-4
    )
    table = next(v for v in graphs.decode.graph.initializers.values() if constant(v).shape == (28, 32))
    assert constant(table).dtype == np.float16


@pytest.mark.parametrize("embedding", ["int8", "int4"])
def test_tensorrt_refuses_a_table_of_codes(tiny_model, context, embedding) -> None:
    model = tiny_model()
    with pytest.raises(PassError) as caught:
        exported(model, context(model), "tensorrt", head="float", embedding=embedding)
    assert str(caught.value) == (
        f"export: embedding: tensorrt reads no rows of {embedding} tables; use embedding: none, and the floats "
        "of the export"
    )


@pytest.mark.parametrize(("width", "group"), [(768, 128), (192, 64), (256, 128), (48, 16), (40, 0)])
def test_groups_of_a_shared_table_divide_its_rows(width, group) -> None:
    assert group_of(width) == group


def test_the_runtime_looks_rows_up_as_the_numbers_say() -> None:
    """GatherBlockQuantized alone, against NumPy: codes less 128, times the scale of their row."""
    import onnx_ir as ir

    from export.graph.builder import Builder
    from export.rewrites.tables import QuantizedTable, packed_rows

    generator = np.random.default_rng(0)
    codes = generator.integers(-127, 128, (9, 24)).astype(np.int8)
    scale = generator.random((9, 1)).astype(np.float32)
    ids = ir.Value(name="ids", shape=ir.Shape([2, 3]), type=ir.TensorType(ir.DataType.INT64))
    graph = ir.Graph([ids], [], nodes=[], opset_imports={"": 23, "com.microsoft": 1}, name="table")
    builder = Builder(graph, None, "table")
    table = QuantizedTable("table", builder.initializer("weight", codes), builder.initializer("weight_scale", scale), 0)
    made = packed_rows(builder, table, ids)
    made.type, made.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([2, 3, 24])
    graph.outputs.append(made)
    asked = np.array([[0, 8, 3], [1, 1, 5]])
    session = onnxruntime.InferenceSession(ir.to_proto(ir.Model(graph, ir_version=11)).SerializeToString())
    np.testing.assert_array_equal(session.run(None, {"ids": asked})[0], (codes * scale)[asked])
