"""Each rule on a small graph that breaks it, and no finding on what is really exported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from calibration.tokens import TokenSet
from compress.models.image_model import ImageModel
from compress.models.tokenizer.model import PixelTokenizer
from compress.models.transformer.architecture import LayerConfig, TransformerConfig
from compress.models.transformer.model import TokenTransformer
from compress.passes import Context
from compress.passes.export import Export
from compress.passes.quantize import Quantize
from export.building import BuildError, process
from export.building.layers import layers
from export.building.profiles import WHOLE, Profile, profiles
from export.graph.builder import constant
from export.graph.onnx_model import OnnxModel
from export.runtime.sampling import Sampler
from export.targets import quantization_rules, tensorrt_rules
from export.targets.conformance import violations
from export.tracing.export import source_graph

RECIPES = {
    "fp32": None,
    "int8 static": {"weights": "int8", "activations": "int8", "down": "same", "head": "float"},
    "fp8": {"weights": "fp8", "activations": "fp8"},
    "int4": {"weights": "int4"},
    "int4 groups": {"weights": "int4", "group": 16},
}
TARGETS = ("onnxruntime", "standard", "tensorrt")


def one_layer(kv_heads: int = 2, ffn: int = 48) -> ImageModel:
    """A model of one grouped-query layer whose widths groups of 16 divide."""
    config = TransformerConfig(17, 10, (4, 4), 32, 8, (LayerConfig(4, kv_heads, ffn),), rotary_base=100.0)
    transformer = TokenTransformer(config)
    transformer.initialise(torch.Generator().manual_seed(0))
    return ImageModel("tiny", "reference", transformer.eval(), PixelTokenizer(17, (4, 4)), Sampler())


@pytest.fixture(scope="module")
def exported(tiny_tokens: TokenSet, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., OnnxModel]:
    """Models by recipe and target; PyTorch's export, which takes the time, runs once a recipe and not once a target."""
    sources: dict[str, tuple[ImageModel, ir.Model]] = {}
    made: dict[tuple[str, str, int], OnnxModel] = {}
    tokens = TokenSet(tiny_tokens.tokens[:, :16], tiny_tokens.labels, tiny_tokens.parts)
    context = Context(one_layer(), tokens, 4, 0, tmp_path_factory.mktemp("workspace"))

    def get(recipe: str, target: str, fixed_batch: int = 0) -> OnnxModel:
        if recipe not in sources:
            settings = RECIPES[recipe]
            model = one_layer() if settings is None else Quantize(**settings).run(one_layer(), context).model
            sources[recipe] = model, source_graph(model.transformer)
        if (recipe, target, fixed_batch) not in made:
            model, source = sources[recipe]
            with mock.patch("export.tracing.export.source_graph", return_value=source.clone()):
                made[recipe, target, fixed_batch] = Export(target, fixed_batch).run(model, context).model
        return made[recipe, target, fixed_batch]

    return get


def typed(text: str, change: Callable[[onnx.ModelProto], None] = lambda proto: None) -> ir.Model:
    """A model from ONNX's textual form, `change`d, with types and shapes."""
    proto = onnx.parser.parse_model(text)
    for node, number in zip(proto.graph.node, range(99), strict=False):
        node.name = f"/{node.op_type}_{number}"
    change(proto)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


def findings(model: ir.Model) -> list[str]:
    """What TensorRT's rules find."""
    return [*tensorrt_rules.findings(model), *quantization_rules.findings(model)]


def graph(signature: str, body: str, opset: int = 24) -> str:
    """A model in ONNX's textual form."""
    return f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]> g {signature} {{ {body} }}'


# Real exports


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_really_exported_has_no_findings(exported, recipe, target):
    assert violations(exported(recipe, target)) == []


def test_a_model_read_from_its_folder_has_no_findings(exported, tmp_path):
    exported("int8 static", "tensorrt").save(tmp_path)
    assert violations(OnnxModel.load(tmp_path)) == []


def test_a_fixed_batch_has_no_findings(exported):
    assert violations(exported("fp32", "tensorrt", fixed_batch=4)) == []


# Every target


def test_a_quantized_layer_that_was_not_lowered_is_named(exported):
    model = exported("fp32", "standard")
    graph = model.image_decoder.clone().graph
    graph.append(ir.Node("compress", "QuantizedLinear", [graph.inputs[0]], name="/blocks/0/left"))
    graph[-1].outputs[0].name = "left"
    broken = replace(model, image_decoder=ir.Model(graph, ir_version=11))
    (found,) = [text for text in violations(broken) if "QuantizedLinear" in text and "checker" not in text]
    assert found.startswith("image_decoder: /blocks/0/left: compress::QuantizedLinear is no operator of standard")


def test_standard_takes_only_ai_onnx_operators(exported):
    model = exported("int4", "onnxruntime")
    assert violations(model) == []
    moved = replace(model, manifest=replace(model.manifest, target="standard"))
    found = violations(moved)
    assert len(found) == 7
    assert all("com.microsoft::MatMulNBits is no operator of standard; it knows those of ai.onnx" in x for x in found)


def test_the_graph_must_take_what_the_manifest_promises(exported):
    model = exported("fp32", "tensorrt")
    wrong = replace(model, manifest=replace(model.manifest, cache="growing"))
    assert violations(wrong) == [
        "decode: its inputs are not those of a growing cache with 1 layers (missing none; not known position)"
    ]


def test_the_checker_finds_a_shape_that_is_not_what_the_operators_give(exported):
    model = exported("fp32", "standard")
    decode = model.decode.clone()
    decode.graph.outputs[0].shape = ir.Shape(["batch", "tokens", 5])
    (found,) = violations(replace(model, decode=decode))
    assert found.startswith("decode: the ONNX checker refuses it (")
    assert "\n" not in found


# TensorRT: one graph that breaks each rule

QK = "(float[1,2,4,8] q, float[1,2,4,8] k"
BROKEN = {
    "type of an input": (
        graph("(double[2] x) => (double[2] y)", "y = Identity(x)"),
        "x: is DOUBLE, which TensorRT reads as FLOAT; make it FLOAT in the file",
    ),
    "operator": (
        graph("(float[2,3] x) => (int64[2,1] y)", "y = Multinomial(x)"),
        "/Multinomial_0: Multinomial is not among the operators that TensorRT reads",
    ),
    "operator of another domain": (
        graph("(float[2] x) => (float[2] y)", "y = com.microsoft.QuickGelu(x)"),
        "/QuickGelu_0: com.microsoft::QuickGelu is not among the operators that TensorRT reads",
    ),
    "operator for a type": (
        graph("(int32[2,2] x) => (int32[2,2] y)", "y = MatMul(x, x)"),
        "/MatMul_0: MatMul of INT32 is not in TensorRT's matrix; it takes BFLOAT16, FLOAT, FLOAT16",
    ),
    "mixed types": (
        graph("(float[2] x, float16[2] e) => (float[2] y)", "y = Add(x, e)"),
        "/Add_0: Add mixes types (x FLOAT, e FLOAT16); a strongly typed network needs a Cast before it",
    ),
    "computed axes": (
        graph("(float[2] x, int64[1] a) => (float[1,2] y)", "y = Unsqueeze(x, a)"),
        "/Unsqueeze_0: the axes of Unsqueeze (a) are computed; make them an initializer",
    ),
    "large top-k": (
        graph("(float[4000] x) => (float[3841] y, int64[3841] i) <int64[1] k = {3841}>", "y, i = TopK(x, k)"),
        "/TopK_0: TopK with K = 3841; TensorRT gives at most 3840",
    ),
    "attention with a past": (
        graph(
            "(float[1,2,1,8] q, float[1,2,1,8] k, float[1,2,3,8] p)"
            " => (float[1,2,1,8] y, float[1,2,4,8] c, float[1,2,4,8] d)",
            "y, c, d = Attention(q, k, k, , p, p)",
        ),
        "/Attention_0: Attention has past_key, which TensorRT does not read; write the cache before it",
    ),
    "attention with several outputs": (
        graph(
            "(float[1,2,1,8] q, float[1,2,1,8] k, float[1,2,3,8] p)"
            " => (float[1,2,1,8] y, float[1,2,4,8] c, float[1,2,4,8] d)",
            "y, c, d = Attention(q, k, k, , p, p)",
        ),
        "/Attention_0: Attention has more than one output in use; TensorRT gives only Y",
    ),
    "attention with a mask of another type": (
        graph(
            QK + ", float16[1,1,4,4] m) => (float[1,2,4,8] y)",
            "y = Attention(q, k, k, m)",
        ),
        "/Attention_0: the mask of Attention is FLOAT16; it must be BOOL or Q's type, FLOAT",
    ),
    "attention with a mask and the causal flag": (
        graph(
            QK + ", bool[1,1,4,4] m) => (float[1,2,4,8] y)",
            "y = Attention<is_causal=1>(q, k, k, m)",
        ),
        "/Attention_0: Attention has a mask and is_causal; TensorRT takes one of them",
    ),
    "attention with softcap": (
        graph(QK + ") => (float[1,2,4,8] y)", "y = Attention<softcap=30.0>(q, k, k)"),
        "/Attention_0: Attention has softcap 30.0, which TensorRT does not compute; it must be 0",
    ),
    "attention with softmax_precision": (
        graph(QK + ") => (float[1,2,4,8] y)", "y = Attention<softmax_precision=1>(q, k, k)"),
        "/Attention_0: Attention has softmax_precision, which TensorRT does not read; leave it out",
    ),
    "cache of 3-D tensors": (
        graph(
            "(float[1,8,4] p, float[1,1,4] u, int64[1] w) => (float[1,8,4] c)", "c = TensorScatter<axis=-2>(p, u, w)"
        ),
        "/TensorScatter_0: past_cache of TensorScatter is 3-D; TensorRT's cache is (batch, heads, length, width)",
    ),
    "cache along another axis": (
        graph(
            "(float[1,8,2,4] p, float[1,1,2,4] u, int64[1] w) => (float[1,8,2,4] c)",
            "c = TensorScatter<axis=1>(p, u, w)",
        ),
        "/TensorScatter_0: TensorScatter along axis 1; TensorRT writes along -2, the length",
    ),
    "circular cache": (
        graph(
            "(float[1,2,8,4] p, float[1,2,1,4] u, int64[1] w) => (float[1,2,8,4] c)",
            'c = TensorScatter<axis=-2, mode="circular">(p, u, w)',
        ),
        "/TensorScatter_0: TensorScatter in mode 'circular'; TensorRT has only 'linear'",
    ),
    "cache that is computed": (
        graph(
            "(float[1,2,8,4] p, float[1,2,1,4] u, int64[1] w) => (float[1,2,8,4] c)",
            "q = Relu(p) c = TensorScatter<axis=-2>(q, u, w)",
        ),
        "/TensorScatter_1: the cache of TensorScatter (q) is no network input; TensorRT needs one",
    ),
    "cache of dynamic length": (
        graph(
            "(float[1,2,n,4] p, float[1,2,1,4] u, int64[1] w) => (float[1,2,n,4] c)",
            "c = TensorScatter<axis=-2>(p, u, w)",
        ),
        "/TensorScatter_0: the length of the cache p is dynamic; it must be a number",
    ),
    "cache that is not given back": (
        graph(
            "(float[1,2,8,4] p, float[1,2,1,4] u, int64[1] w) => (float[1,2,8,4] y)",
            "c = TensorScatter<axis=-2>(p, u, w) y = Relu(c)",
        ),
        "/TensorScatter_0: what TensorScatter writes (c) is no network output; TensorRT updates the input in place",
    ),
    "scale of zero": (
        graph("(int8[2] x) => (float[2] y) <float s = {0.0}, int8 z = {0}>", "y = DequantizeLinear(x, s, z)"),
        "/DequantizeLinear_0: the scale s is not positive everywhere (smallest 0); TensorRT refuses it",
    ),
    "no zero point": (
        graph("(float[2] x) => (uint8[2] y) <float s = {0.5}>", "y = QuantizeLinear(x, s)"),
        "/QuantizeLinear_0: QuantizeLinear has no zero point, which TensorRT reads as int8; give zeros of the",
    ),
    "uint8": (
        graph(
            "(float[2] x) => (float[2] y) <float s = {0.5}, uint8 z = {0}>",
            "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)",
        ),
        "/QuantizeLinear_0: the zero point z is UINT8; TensorRT quantizes to INT8, INT4 or FLOAT8E4M3FN",
    ),
    "uint8 data": (
        graph(
            "(float[2] x) => (float[2] y) <float s = {0.5}, uint8 z = {0}>",
            "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)",
        ),
        "/DequantizeLinear_1: DequantizeLinear of UINT8 is not in TensorRT's matrix; it takes FLOAT8E4M3FN, INT4, INT8",
    ),
    "computed zero point": (
        graph("(int8[2] x, int8 z) => (float[2] y) <float s = {0.5}>", "y = DequantizeLinear(x, s, z)"),
        "/DequantizeLinear_0: the zero point z is computed; make it an initializer",
    ),
    "asymmetric": (
        graph("(int8[2] x) => (float[2] y) <float s = {0.5}, int8 z = {3}>", "y = DequantizeLinear(x, s, z)"),
        "/DequantizeLinear_0: the zero point z is not zero everywhere; TensorRT quantizes symmetrically",
    ),
    "as many zero points as scales": (
        graph("(int8[2,2] x) => (float[2,2] y) <float[2] s = {0.5, 1}, int8 z = {0}>", "y = DequantizeLinear(x, s, z)"),
        "/DequantizeLinear_0: DequantizeLinear has 2 scales and 1 zero points; it needs as many",
    ),
    "scales along an axis": (
        graph(
            "() => (float[2,3] y) <int8[2,3] w = {1,2,3,4,5,6}, float[2] s = {1, 1}, int8[2] z = {0, 0}>",
            "y = DequantizeLinear<axis=1>(w, s, z)",
        ),
        "/DequantizeLinear_0: DequantizeLinear has 2 scales along axis 1 of w, which has 3 entries",
    ),
    "axis that is none": (
        graph(
            "() => (float[2,3] y) <int8[2,3] w = {1,2,3,4,5,6}, float[2] s = {1, 1}, int8[2] z = {0, 0}>",
            "y = DequantizeLinear<axis=2>(w, s, z)",
        ),
        "/DequantizeLinear_0: axis 2 of DequantizeLinear is none of the 2 dimensions of w",
    ),
    "int4 blocks that do not divide": (
        graph(
            "() => (float[6,1] y) <int4[6,1] w = {1,2,3,4,5,6}, float[2,1] s = {1, 1}, int4[2,1] z = {0, 0}>",
            "y = DequantizeLinear<axis=0, block_size=4>(w, s, z)",
        ),
        "/DequantizeLinear_0: scales [2, 1] of w [6, 1] are not blocks of 4 along axis 0; the block must divide",
    ),
    "odd int4": (
        graph("() => (float[3] y) <int4[3] w = {1,2,3}, float s = {1}, int4 z = {0}>", "y = DequantizeLinear(w, s, z)"),
        "/DequantizeLinear_0: w has an odd number of INT4 values ([3]); TensorRT packs them in pairs",
    ),
    "attention of one tensor": (
        graph("(float[1,4,1,32] q) => (float[1,4,1,32] y)", "y = Attention(q, q, q)"),
        "/Attention_0: Q and K of Attention are one tensor, on which the builder crashes; compute them by two",
    ),
    "bytes that are moved": (
        graph("(uint8[2,3] x) => (float[3,2] y)", "t = Transpose(x) y = Cast<to=1>(t)"),
        "/Transpose_0: Transpose of UINT8 is not in TensorRT's matrix; it takes BFLOAT16, BOOL, FLOAT, FLOAT16, INT32",
    ),
    "constant bytes": (
        graph("(int64[n] x) => (uint8[n] y) <uint8[3] palette = {1,2,3}>", "y = Gather(palette, x)"),
        "palette: is UINT8, which TensorRT has not; use a float, int32, int64 or bool",
    ),
}
# What the builder takes and a rule refuses nevertheless, because the plan computes something else than the file says.
STRICTER = {
    "type of an input": "the input becomes FLOAT, so bytes that are fed as DOUBLE are other numbers",
    "no zero point": "uint8 in ONNX, int8 in the plan",
    "uint8": "uint8 in ONNX, int8 in the plan",
    "uint8 data": "uint8 in ONNX, int8 in the plan",
}
# What earlier rules refused, from documents, and the builder takes.
BUILDS = {
    "opset 26": graph("(float[2] x) => (float[2] y)", "y = Relu(x)", opset=26),
    "powers of another type": graph("(float[2] x, int64[2] e) => (float[2] y)", "y = Pow(x, e)"),
    "squeeze of a dynamic shape": graph("(float[n,1] x) => (float[n] y)", "y = Squeeze(x)"),
    "range between vectors": graph(
        "(int64 n) => (int64[m] y) <int64[1] zero = {0}, int64 one = {1}>", "y = Range(zero, n, one)"
    ),
    "unsorted top-k": graph(
        "(float[9] x) => (float[2] y, int64[2] i) <int64[1] k = {2}>", "y, i = TopK<sorted=0>(x, k)"
    ),
    "computed top-k": graph("(float[9] x, int64[1] k) => (float[m] y, int64[m] i)", "y, i = TopK(x, k)"),
    "large top-k": graph(
        "(float[4000] x) => (float[3840] y, int64[3840] i) <int64[1] k = {3840}>", "y, i = TopK(x, k)"
    ),
    "attention of 3-D tensors": graph(
        "(float[1,4,16] q, float[1,4,16] k) => (float[1,4,16] y)",
        "y = Attention<q_num_heads=2, kv_num_heads=2>(q, k, k)",
    ),
    "attention with a 2-D mask": graph(QK + ", bool[4,4] m) => (float[1,2,4,8] y)", "y = Attention(q, k, k, m)"),
    "scale of another type": graph(
        "(float16[2] x) => (float[2] y) <float16 s = {14336}, int8 z = {0}, float t = {0.5}>",
        "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, t, z)",
    ),
    "computed scale": graph("(int8[2] x, float s) => (float[2] y) <int8 z = {0}>", "y = DequantizeLinear(x, s, z)"),
    "zero point and output_dtype": graph(
        "(int8[2] x) => (float[2] y) <float s = {0.5}, int8 z = {0}>", "y = DequantizeLinear<output_dtype=1>(x, s, z)"
    ),
    "int8 blocks": graph(
        "() => (float[4,1] y) <int8[4,1] w = {1,2,3,4}, float[2,1] s = {1, 1}, int8[2,1] z = {0, 0}>",
        "y = DequantizeLinear<axis=0, block_size=2>(w, s, z)",
    ),
    "activations with a scale for each channel": graph(
        "(float[2,2] x) => (int8[2,2] y) <float[2] s = {1, 1}, int8[2] z = {0, 0}>", "y = QuantizeLinear(x, s, z)"
    ),
    "bytes at the borders": graph("(uint8[n] x) => (uint8[n] y)", "f = Cast<to=1>(x) y = Cast<to=2>(f)"),
}


def verdict(text: str, folder: Path) -> str:
    """What TensorRT for RTX says of a graph; empty where it builds."""
    model = typed(text)
    path = folder / "graph.onnx"
    ir.save(model, str(path))
    asked = profiles(model.graph, {WHOLE: {}}, unknown=(1, 2, 4))
    try:
        answer = process.build(path, asked, [["8.9", "12.0"]], 120)
    except BuildError as error:
        return str(error)
    return " ".join(each.text for each in answer.unparsed) or answer.attempts[0].refused


@pytest.mark.slow
@pytest.mark.tensorrt_rtx
@pytest.mark.parametrize("name", BROKEN)
def test_what_a_rule_refuses_the_builder_refuses_or_computes_otherwise(name: str, tmp_path: Path):
    assert (verdict(BROKEN[name][0], tmp_path) == "") == (name in STRICTER)


@pytest.mark.slow
@pytest.mark.tensorrt_rtx
@pytest.mark.parametrize("name", BUILDS)
def test_what_the_builder_takes_no_rule_refuses(name: str, tmp_path: Path):
    assert findings(typed(BUILDS[name])) == []
    assert verdict(BUILDS[name], tmp_path) == ""


@pytest.mark.tensorrt_rtx
def test_uint8_is_silently_computed_as_int8_so_its_rule_stays(tmp_path: Path):
    """Why a rule refuses what builds: of 300 / 1.0 ONNX makes 255, an int8 plan 127."""
    text, _ = BROKEN["uint8"]
    ir.save(typed(text), str(tmp_path / "graph.onnx"))
    (attempt,) = process.build(tmp_path / "graph.onnx", [Profile(WHOLE, {})], [["8.9"]], 120).attempts
    kernels = layers(attempt.layers)
    types = {each.type for layer in kernels for each in (*layer.inputs, *layer.constants, *layer.outputs)}
    assert "UInt8" not in types
    assert any("INT8" in warning for warning in attempt.warnings), attempt.warnings


@pytest.mark.parametrize(("text", "expected"), BROKEN.values(), ids=BROKEN.keys())
def test_a_graph_that_breaks_a_rule_of_tensorrt_is_told_so(text, expected):
    found = findings(typed(text))
    assert any(each.startswith(expected) for each in found), found


def test_every_rule_has_a_graph_that_breaks_it():
    silent = {rule.__name__ for rule in (*tensorrt_rules.RULES, *quantization_rules.RULES)}
    for text, _ in BROKEN.values():
        model = typed(text)
        for rules in (tensorrt_rules, quantization_rules):
            for rule in rules.RULES:
                quantizes = rules is quantization_rules
                nodes = [n for n in model.graph if not quantizes or n.op_type in quantization_rules.OPERATORS]
                if any(list(rule(node)) for node in nodes):
                    silent.discard(rule.__name__)
    assert silent == set()


def test_legal_graphs_have_no_findings():
    legal = [
        graph(QK + ", bool[1,1,4,4] m) => (float[1,2,4,8] y)", "y = Attention(q, k, k, m)"),
        graph(QK + ", float[1,1,4,4] m) => (float[1,2,4,8] y)", "y = Attention(q, k, k, m)"),
        graph("(float[n,3] x) => (float y)", "s = Shape<start=0, end=1>(x) c = Squeeze(s) y = Cast<to=1>(c)"),
        graph(
            "() => (float[4,1] y) <int4[4,1] w = {1,2,3,4}, float[2,1] s = {1, 1}, int4[2,1] z = {0, 0}>",
            "y = DequantizeLinear<axis=0, block_size=2>(w, s, z)",
        ),
    ]
    assert [findings(typed(text)) for text in legal] == [[], [], [], []]


def test_a_broken_scale_in_a_real_export_is_found(exported):
    model = exported("int8 static", "tensorrt")
    decode = model.decode.clone()
    name = "blocks.0.ffn.down.weight_scale"
    scale = constant(decode.graph.initializers[name]).copy()
    scale[3] = -1.0
    decode.graph.initializers[name].const_value = ir.tensor(scale.astype(np.float32), name=name)
    assert violations(replace(model, decode=decode)) == [
        "decode: /blocks/0/ffn/down/DequantizeWeight: the scale blocks.0.ffn.down.weight_scale is not positive "
        "everywhere (smallest -1); TensorRT refuses it"
    ]
