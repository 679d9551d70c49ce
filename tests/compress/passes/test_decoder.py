"""`decoder` changes the image decoder alone, stays near it, and says what it cannot do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from compress.core.settings import InputError, parse
from compress.models.artifact import Form
from compress.models.image_model import ImageModel
from compress.models.tokenizer.model import VqTokenizer
from compress.models.tokenizer.vq import VqAutoencoder, VqConfig
from compress.passes import PassError, find
from compress.passes.decoder import Decoder
from compress.passes.export import Export
from export.graph.onnx_model import OnnxModel
from export.graph.saturation import integer_weights
from export.graph.weights import bytes_beside
from export.runtime.engine import Engine

CONVOLUTIONS = (
    13  # 1 behind the codes, a stem, 4 in the middle, 2 and a shortcut and an upsampling, 2, a shortcut, head
)


def vq_model(model: ImageModel) -> ImageModel:
    """The model with a VQ tokenizer of two resolutions in place of grey levels."""
    torch.manual_seed(0)
    config = VqConfig(17, 4, 8, (), (8, 16), decoder_blocks=1, norm_groups=4)
    return replace(model, tokenizer=VqTokenizer(VqAutoencoder(config).eval().requires_grad_(False), model.shape.grid))


@pytest.fixture(scope="module")
def held() -> dict[str, OnnxModel]:
    """Exported models of these tests."""
    return {}


@pytest.fixture
def model(held, tiny_model, context) -> OnnxModel:
    """A model with a VQ decoder, exported for ONNX Runtime."""
    if "vq" not in held:
        held["vq"] = Export("onnxruntime").run(vq_model(tiny_model(layers=1)), context()).model
    return held["vq"]


def decoded(model: ir.Model, tokens: np.ndarray) -> np.ndarray:
    """Pixels before rounding."""
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["pixels"], {"tokens": tokens})[0]


def test_it_takes_and_gives_onnx() -> None:
    assert find("decoder", "recipe") is Decoder
    assert (Decoder.accepts, Decoder.returns, Decoder.exact, Decoder.uses_tokens) == (Form.ONNX, Form.ONNX, False, True)


def test_without_quantization_pixels_stay(model, context, tiny_tokens) -> None:
    outcome = Decoder(quantize="none").run(model, context())
    tokens = tiny_tokens.part("held_out").tokens
    np.testing.assert_allclose(
        decoded(outcome.model.image_decoder, tokens), decoded(model.image_decoder, tokens), atol=1e-5
    )
    assert outcome.notes.written() == {"fused": {"group-norm": 10}}
    assert outcome.model.decode is model.decode


@pytest.mark.parametrize(
    ("settings", "left", "near"),
    [
        ({}, 3, 0.1),
        ({"keep": []}, 0, 0.1),
        ({"keep": ["last"], "ranges": "minmax"}, 1, 0.1),
        ({"ranges": "entropy", "pictures": 2}, 3, 0.3),
        ({"reduce_range": True}, 3, 0.1),
        ({"keep": [], "reduce_range": "pairs"}, 0, 0.1),
    ],
)
def test_pixels_move_little_and_convolutions_are_counted(model, context, tiny_tokens, settings, left, near) -> None:
    outcome = parse(Decoder, settings, "decoder").run(model, context())
    tokens = tiny_tokens.part("held_out").tokens
    exact, moved = decoded(model.image_decoder, tokens), decoded(outcome.model.image_decoder, tokens)
    assert 0 < (moved - exact).std() < near * exact.std()
    assert (outcome.notes.convolutions, outcome.notes.left_in_float) == (CONVOLUTIONS - left, left)
    assert outcome.notes.pictures == settings.get("pictures", 8), "no more than the recipe calibrates on"


@pytest.mark.parametrize(("reduce_range", "cpu"), [("auto", "any"), (True, "any"), (False, "vnni")])
def test_what_the_weights_need_of_a_processor_is_known(model, context, reduce_range, cpu) -> None:
    made = Decoder(keep=(), reduce_range=reduce_range).run(model, context()).model
    assert made.cpu == cpu
    products = {node.op_type for node, _ in integer_weights(made.image_decoder)}
    assert products == {"Conv", "MatMul"}


def test_a_bias_counts_in_units_of_its_weights(model, context) -> None:
    decoder = Decoder(keep=()).run(model, context()).model.image_decoder
    checked = 0
    for node in decoder.graph:
        if node.op_type != "Conv" or len(node.inputs) < 3:
            continue
        x, weight, bias = (value.producer().inputs[1].const_value.numpy() for value in node.inputs)
        np.testing.assert_allclose(bias, x * weight, rtol=1e-5)
        checked += 1
    assert checked > 5


def test_products_of_the_attention_are_quantized_where_asked(model, context) -> None:
    made = Decoder(keep=("first", "last")).run(model, context()).model.image_decoder
    rounded = [node for node in made.graph if node.op_type == "MatMul" and made_by_dequantize(node)]
    assert len(rounded) == 4


def made_by_dequantize(node: ir.Node) -> bool:
    """Whether both inputs are dequantized."""
    return all(value.producer() is not None and value.producer().op_type == "DequantizeLinear" for value in node.inputs)


def test_onnx_runtime_computes_the_convolutions_in_int8(model, context, tmp_path) -> None:
    made = Decoder().run(model, context()).model
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(ir.to_proto(made.image_decoder).SerializeToString(), options)
    kinds = [node.op_type for node in ir.load(tmp_path / "optimised.onnx").graph]
    assert kinds.count("QLinearConv") == CONVOLUTIONS - 3


def test_the_same_seed_gives_the_same_graph_and_the_input_stays(model, context) -> None:
    before = ir.to_proto(model.image_decoder).SerializeToString()
    first, second = (Decoder(pictures=4).run(model, context(seed=3)).model.image_decoder for _ in range(2))
    assert ir.to_proto(first).SerializeToString() == ir.to_proto(second).SerializeToString()
    assert ir.to_proto(model.image_decoder).SerializeToString() == before


def test_an_engine_whose_transformer_rounds_weights_alone_still_decodes_in_int8(model, context, tmp_path) -> None:
    made = Decoder().run(model, context()).model
    pictures = []
    for weight_only in (False, True):
        folder = tmp_path / str(weight_only)
        folder.mkdir()
        replace(made, manifest=replace(made.manifest, weight_only=weight_only)).save(folder)
        engine = Engine.load(folder, threads=1)
        pictures.append(engine.image_decoder.run(["pixels"], {"tokens": np.zeros((1, 64), dtype=np.int64)})[0])
    assert np.array_equal(*pictures)


def test_a_palette_has_nothing_to_quantize(tiny_model, context) -> None:
    exported = Export("onnxruntime").run(tiny_model(layers=1), context()).model
    with pytest.raises(PassError, match="decoder: this image decoder is a palette without convolutions"):
        Decoder().run(exported, context())


def test_a_decoder_is_quantized_once(model, context) -> None:
    once = Decoder(pictures=1).run(model, context()).model
    with pytest.raises(PassError, match="decoder: the image decoder is quantized already; one step does all"):
        Decoder().run(once, context())


def test_a_single_file_keeps_no_older_decoder(model, context) -> None:
    with pytest.raises(PassError, match="decoder: the single file holds the image decoder already; put decoder before"):
        Decoder().run(replace(model, generate=model.decode), context())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quantize": "int4"}, "'int4' is not one of 'int8', 'none'"),
        ({"keep": ["middle"]}, "'middle' is not one of"),
        ({"percentile": 101}, "must be between 50 and 100"),
    ],
)
def test_wrong_settings_are_refused(settings, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse(Decoder, settings, "r.yaml")


def test_the_rehearsal_decodes_one_picture() -> None:
    assert Decoder().rehearsal() == (Decoder(pictures=1), 16.0)
    assert Decoder(quantize="none").rehearsal()[1] == 1


def test_a_decoder_whose_weights_lie_beside_its_graph_is_quantized_all_the_same(
    model, context, tiny_tokens, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("export.graph.weights.BESIDE", 0)
    monkeypatch.setattr("export.graph.weights.SMALLEST", 64)
    model.save(tmp_path)
    beside = OnnxModel.load(tmp_path)
    assert bytes_beside(beside.image_decoder) > 0
    tokens = tiny_tokens.part("held_out").tokens
    found, wanted = (decoded(Decoder().run(each, context()).model.image_decoder, tokens) for each in (beside, model))
    np.testing.assert_array_equal(found, wanted)
