"""Fusions on real exports: what they leave of the graph, that it computes the same, and why they refuse near misses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from export.graph.builder import constant
from export.graph.match import Miss
from export.graph.onnx_model import OnnxModel
from export.rewrites import fusions
from export.rewrites.fusions import FusionError
from export.targets import find, fuse
from export.targets.conformance import violations

FLOAT = ir.DataType.FLOAT
LAYERS = 2
ALL = {"attention": LAYERS, "qkv": LAYERS, "gate-up": LAYERS, "norm": 2 * LAYERS, "activation": LAYERS}
# Of every layer: packed QKV, output, packed gate and up, down; and the head.
PRODUCTS = 4 * LAYERS + 1
# What remains of a rotary model: the embedding, the first norm (no add is before it), and silu(gate) * up.
REST = {
    "Gather": 1,
    "RMSNormalization": 1,
    "SkipSimplifiedLayerNormalization": 2 * LAYERS,
    "GroupQueryAttention": LAYERS,
    "Split": LAYERS,
    "QuickGelu": LAYERS,
    "Mul": LAYERS,
}
EXPECTED = {
    "rotary": {**REST, "MatMul": PRODUCTS},
    "grouped": {**REST, "MatMul": PRODUCTS, "Add": PRODUCTS - 1},  # all but the head have a bias
    "int8 dynamic": {**REST, "MatMulNBits": PRODUCTS - 1, "MatMul": 1},  # the head stays in float
    "int4 group": {**REST, "MatMulNBits": PRODUCTS - 1, "MatMul": 1},
    "int8 static": {
        **REST,
        "MatMul": PRODUCTS,
        "QuantizeLinear": PRODUCTS - 1,
        "DequantizeLinear": 2 * (PRODUCTS - 1),  # of the weights and of the input
    },
    # Positions are Range(tokens) + total - tokens; the biases of up went into BiasGelu.
    "learned": {
        "Shape": 2, "Squeeze": 2, "Cast": 1, "Sub": 1, "Range": 1, "Gather": 2, "LayerNormalization": 1,
        "SkipLayerNormalization": 2 * LAYERS, "GroupQueryAttention": LAYERS, "BiasGelu": LAYERS,
        "MatMul": PRODUCTS, "Add": 3 * LAYERS + 2,
    },
}  # fmt: skip
EXACT = ("rotary", "grouped", "learned", "learned tanh", "int4 group", "int8 static")


def operators(model: OnnxModel) -> Counter[str]:
    """How many nodes of each operator the decode graph has."""
    return Counter(node.op_type for node in model.decode.graph)


def nodes(model: OnnxModel, operator: str) -> list[ir.Node]:
    """The nodes of an operator, in the order of the graph."""
    return [node for node in model.decode.graph if node.op_type == operator]


def reason(model: OnnxModel, name: str) -> str:
    """Why a fusion applies nowhere."""
    fused = fuse(model)
    assert fused.counts[name] == 0
    return fused.missed[name]


def change(value: ir.Value | None, array: np.ndarray) -> None:
    """Give a constant other numbers."""
    assert value is not None
    value.const_value = ir.tensor(array, name=value.name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXPECTED)
def test_onnx_runtime_gets_the_nodes_that_are_counted_by_hand(exported, kind) -> None:
    fused = fuse(exported(kind))
    assert operators(fused.model) == EXPECTED[kind]
    assert fused.model.manifest.cache == "shared"
    assert not violations(fused.model)
    if kind == "learned":
        assert fused.counts == {**ALL, "gate-up": 0}
        assert fused.missed == {"gate-up": "found no Sigmoid"}
    else:
        assert (fused.counts, fused.missed) == (ALL, {})


def test_gelu_by_tanh_becomes_fast_gelu_with_its_bias(exported) -> None:
    fused = fuse(exported("learned tanh"))
    assert (operators(fused.model)["FastGelu"], operators(fused.model)["Gelu"]) == (1, 0)


def test_the_standard_gets_attention_with_its_cache_and_splits(exported) -> None:
    plain = exported("rotary", "standard")
    fused = fuse(plain)
    # Each layer loses two joins of its cache and three products (5 become 2) and wins two splits.
    assert fused.counts == {"attention": LAYERS, "qkv": LAYERS, "gate-up": LAYERS}
    before, after = operators(plain), operators(fused.model)
    assert before - after == {"Concat": 2 * LAYERS, "MatMul": 3 * LAYERS}
    assert after - before == {"Split": 2 * LAYERS}
    assert all(len(node.inputs) == 6 and len(node.outputs) == 3 for node in nodes(fused.model, "Attention"))
    assert fused.model.manifest.cache == "growing"
    assert not violations(fused.model)


def test_tensorrt_gets_gate_and_up_packed_and_keeps_its_cache(exported) -> None:
    plain = exported("rotary", "tensorrt")
    fused = fuse(plain)
    assert fused.counts == {"gate-up": LAYERS}
    before, after = operators(plain), operators(fused.model)
    assert before - after == {"MatMul": LAYERS}
    assert after - before == {"Split": LAYERS}
    assert fused.model.manifest.cache == "static"
    assert not violations(fused.model)


@pytest.mark.parametrize("target", ["onnxruntime", "standard", "tensorrt"])
@pytest.mark.parametrize("kind", EXACT)
def test_a_fused_engine_computes_what_the_unfused_one_and_torch_do(
    exported, engine_of, model_of, inputs, kind, target
) -> None:
    plain = exported(kind, target)
    before, after = engine_of(plain), engine_of(fuse(plain).model)
    expected = model_of(kind).score(inputs)
    for logits in (before.score(inputs), after.score(inputs), after.score_stepwise(inputs)):
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("target", ["onnxruntime", "standard"])
def test_dynamic_int8_computes_the_same_but_where_a_number_rounds_the_other_way(
    exported, engine_of, model_of, inputs, target
) -> None:
    plain = exported("int8 dynamic", target)
    before, after = engine_of(plain).score(inputs), engine_of(fuse(plain).model)
    torch = model_of("int8 dynamic").score(inputs)
    for logits in (before, after.score(inputs), after.score_stepwise(inputs)):
        difference = abs(logits - torch).max(axis=-1)
        # An input near the middle of two codes goes either way on the last bit of a sum, and moves what follows it
        # by a code, 1 / 127 of the largest input; most tokens have none.
        assert np.median(difference) < 1e-5
        assert difference.max() < 0.1


def test_fusing_leaves_the_given_model_as_it_was(exported) -> None:
    model = exported("rotary")
    before = ir.to_proto(model.decode).SerializeToString(deterministic=True)
    fuse(model)
    assert ir.to_proto(model.decode).SerializeToString(deterministic=True) == before
    assert model.manifest.cache == "growing"


def test_equal_models_are_fused_to_equal_bytes(exported) -> None:
    first, second = (ir.to_proto(fuse(exported("grouped")).model.decode) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_weights_that_were_packed_are_not_kept_twice(exported) -> None:
    plain, fused = exported("rotary"), fuse(exported("rotary")).model
    constants = [model.decode.graph.initializers.values() for model in (plain, fused)]
    before, after = (sum(value.const_value.size for value in each if value.dtype == FLOAT) for each in constants)
    assert before == after


@pytest.mark.parametrize("name", ALL)
def test_one_fusion_alone_applies_and_computes_the_same(exported, engine_of, model_of, inputs, name) -> None:
    fused = fuse(exported("rotary"), [name])
    assert fused.counts == {name: ALL[name]}
    assert fused.model.manifest.cache == ("shared" if name == "attention" else "growing")
    expected = model_of("rotary").score(inputs)
    np.testing.assert_allclose(engine_of(fused.model).score_stepwise(inputs), expected, rtol=0, atol=1e-5)


def test_targets_have_the_fusions_that_they_can_run() -> None:
    assert fusions.names() == list(ALL)
    assert find("onnxruntime").fusions == tuple(ALL)
    assert find("standard").fusions == ("attention", "qkv", "gate-up")
    assert find("tensorrt").fusions == ("gate-up",)  # see the target


def test_a_fusion_that_is_not_for_the_target_is_refused(exported) -> None:
    with pytest.raises(FusionError) as error:
        fuse(exported("rotary", "standard"), ["qkv", "norm"])
    assert str(error.value) == "'norm' is not for standard, which takes attention, qkv, gate-up"


def test_a_fusion_that_finds_no_anchor_is_refused(exported) -> None:
    with pytest.raises(FusionError) as error:
        fuse(exported("learned"), ["gate-up"])
    assert str(error.value) == "'gate-up' matched nothing; nearest try found no Sigmoid"


def test_heads_that_are_not_a_multiple_of_16_wide_are_refused_with_their_width(exported) -> None:
    with pytest.raises(FusionError) as error:
        fuse(exported("narrow heads"), ["attention"])
    assert str(error.value) == (
        "'attention' matched nothing; nearest try stopped at /blocks/0/attention/Attention: "
        "heads are 8 wide; GroupQueryAttention wants a multiple of 16"
    )


def test_heads_that_the_operator_does_not_take_keep_a_growing_cache(exported, engine_of, model_of, inputs) -> None:
    fused = fuse(exported("narrow heads"))
    assert fused.counts == {"attention": 0, "qkv": 1, "gate-up": 1, "norm": 2, "activation": 1}
    assert fused.model.manifest.cache == "growing"
    expected = model_of("narrow heads").score(inputs)
    np.testing.assert_allclose(engine_of(fused.model).score_stepwise(inputs), expected, rtol=0, atol=1e-5)


def test_attention_of_some_layers_only_is_refused(exported) -> None:
    model = exported("rotary")
    nodes(model, "Attention")[1].attributes["softcap"] = ir.AttrFloat32("softcap", 2.0)
    with pytest.raises(FusionError) as error:
        fuse(model)
    assert str(error.value) == "'attention' matched 1 of 2 layers; one cache cannot serve both kinds"


def capped(model: OnnxModel) -> None:
    for node in nodes(model, "Attention"):
        node.attributes["softcap"] = ir.AttrFloat32("softcap", 2.0)


def unmasked(model: OnnxModel) -> None:
    for node in nodes(model, "Attention"):
        node.resize_inputs(3)


def strictly_before(model: OnnxModel) -> None:
    (mask,) = nodes(model, "LessOrEqual")
    mask.op_type = "Less"


def anticausal(model: OnnxModel) -> None:
    (mask,) = nodes(model, "LessOrEqual")
    keys, queries = mask.inputs
    mask.replace_input_with(0, queries)
    mask.replace_input_with(1, keys)


def late_keys(model: OnnxModel) -> None:
    (mask,) = nodes(model, "LessOrEqual")
    keys = mask.inputs[0].producer().inputs[0].producer()  # type: ignore[union-attr]
    start = ir.Value(name="start", const_value=ir.tensor(np.array(1, dtype=np.int64), name="start"))
    model.decode.graph.register_initializer(start)
    keys.replace_input_with(0, start)


def unrotated_key(model: OnnxModel) -> None:
    for node in nodes(model, "Attention"):
        join = node.inputs[1].producer()  # type: ignore[union-attr]
        transposed = next(
            each
            for each in nodes(model, "Transpose")
            if each.name.startswith(join.name.rpartition("/")[0])
            and each.inputs[0].producer().inputs[0].producer().inputs[1].name.endswith("key.weight")
        )
        join.replace_input_with(1, transposed.outputs[0])


def backward_rotation(model: OnnxModel) -> None:
    for node in nodes(model, "Sub"):
        even, odd = node.inputs
        node.replace_input_with(0, odd)
        node.replace_input_with(1, even)


def both_even(model: OnnxModel) -> None:
    for node in nodes(model, "Slice"):
        if constant(node.inputs[1]).item() == 1:
            node.replace_input_with(1, next(each.inputs[1] for each in nodes(model, "Slice") if each is not node))


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (capped, "stopped at /blocks/1/attention/Attention: it caps its scores"),
        (unmasked, "stopped at /blocks/1/attention/Reshape_5: Reshape is not Transpose or Mul"),
        (strictly_before, "stopped at /LessOrEqual: Less is not LessOrEqual"),
        (anticausal, "stopped at /Add: Add is not Range"),
        (late_keys, "it does not count 0, 1, 2, ..."),
        (unrotated_key, "stopped at /blocks/1/attention/Attention: only one of query and key is rotated"),
        (backward_rotation, "it is not a rotation of pairs"),
        (both_even, "it is not one of a pair's numbers"),
    ],
)
def test_what_only_resembles_causal_rotary_attention_is_left(
    exported, edit: Callable[[OnnxModel], None], text: str
) -> None:
    model = exported("rotary")
    edit(model)
    found = reason(model, "attention")
    assert found == text or found.endswith(f": {text}")
    assert not operators(fuse(model).model)["GroupQueryAttention"]


def test_products_whose_inputs_round_with_other_scales_are_not_packed(exported) -> None:
    model = exported("int8 static")
    graph = model.decode.graph
    for layer in range(LAYERS):
        for name in ("attention.key", "ffn.up"):
            change(graph.initializers[f"blocks.{layer}.{name}.activation_scale"], np.array(0.125, dtype=np.float32))
    fused = fuse(model)
    assert (fused.counts["qkv"], fused.counts["gate-up"]) == (0, 0)
    for name, first, second in (("qkv", "attention/query", "attention/key"), ("gate-up", "ffn/gate", "ffn/up")):
        assert fused.missed[name] == (
            f"stopped at /blocks/1/{second}/QuantizeLinear: its scale is not that of /blocks/1/{first}/QuantizeLinear"
        )


def test_products_of_other_number_formats_are_not_packed(exported) -> None:
    model = exported("int8 dynamic")
    for node in nodes(model, "MatMulNBits"):
        if "/key/" in node.name:
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 1)
    assert reason(model, "qkv") == (
        "stopped at /blocks/1/attention/key/MatMulNBits: "
        "its number format is not that of /blocks/1/attention/query/MatMulNBits"
    )


def test_blockwise_products_of_the_standard_are_not_packed_because_each_rounds_its_own_input(exported) -> None:
    assert reason(exported("int8 dynamic", "standard"), "qkv") == (
        "stopped at /blocks/1/attention/key/MatMul: it does not read what /blocks/1/attention/query/MatMul reads"
    )


def test_a_sigmoid_that_is_no_silu_is_left(exported) -> None:
    model = exported("rotary")
    for node in nodes(model, "Sigmoid"):
        product = node.outputs[0].uses()[0].node
        other = node.inputs[0].producer().inputs[0]  # type: ignore[union-attr]
        product.replace_input_with(0, other)
        assert product.inputs[1] is node.outputs[0]
    assert reason(model, "gate-up").endswith("it is not the gate times its sigmoid")
    assert reason(model, "activation").endswith("it does not multiply a value with its sigmoid")


def test_a_norm_of_another_axis_is_left(exported) -> None:
    model = exported("rotary")
    for node in nodes(model, "RMSNormalization"):
        node.attributes["axis"] = ir.AttrInt64("axis", 1)
    assert reason(model, "norm") == "stopped at /norm/RMSNormalization: it does not normalise the last axis"


def test_a_norm_of_a_broadcast_add_is_left(exported) -> None:
    # The learned positions (T, D) are added to the embedding (B, T, D).
    model = exported("learned")
    first = nodes(model, "LayerNormalization")[0]
    with pytest.raises(Miss, match="it adds values of two shapes"):
        fusions.find("norm").rewrite(first, model.decode.graph, "shared")


def test_gelu_without_a_bias_is_left(exported) -> None:
    model = exported("learned")
    for node in nodes(model, "Gelu"):
        node.replace_input_with(0, node.inputs[0].producer().inputs[0])  # type: ignore[union-attr]
    assert reason(model, "activation") == "stopped at /blocks/1/ffn/up/MatMul: MatMul is not Add"


@pytest.mark.parametrize("target", ["onnxruntime", "standard"])
@pytest.mark.parametrize(("kind", "norms"), [("masked", 4), ("masked without classes", 0)])
def test_attention_to_all_positions_cuts_into_heads_itself(
    kind, norms, target, exported, engine_of, examples_of
) -> None:
    model = exported(kind, target)
    fused = fuse(model)
    layers = len({node.name for node in nodes(model, "Attention")})
    assert fused.counts["attention"] == layers
    found = operators(fused.model)
    assert found["Attention"] == layers
    assert found["Transpose"] == 0
    assert all("q_num_heads" in node.attributes for node in nodes(fused.model, "Attention"))
    assert (
        sum("_norm" in (node.name or "") and node.op_type == "RMSNormalization" for node in fused.model.decode.graph)
        >= norms
    )
    batch = examples_of(kind)
    plain, engine = engine_of(model), engine_of(fused.model)
    np.testing.assert_allclose(engine.score(batch.inputs), plain.score(batch.inputs), atol=2e-5)
