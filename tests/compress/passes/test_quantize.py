"""quantize: every format that an engine computes, and words for every one that none does."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from calibration.tokens import TokenSet
from compress.core.settings import InputError, parse
from compress.models.transformer.examples import examples
from compress.models.transformer.quantized import LARGEST_REDUCED, LinearQuantization, QuantizedLinear, quantizations
from compress.passes import PassError
from compress.passes.quantize import Quantize
from compress.passes.shared.quantizing import sqnr_db
from export.graph.saturation import is_limited

FORMATS = [
    ({"weights": "int8"}, 40.0),
    ({"weights": "int8", "group": 16}, 40.0),
    ({"weights": "int8", "reduce_range": True}, 33.0),
    ({"weights": "int8", "activations": "int8", "reduce_range": False}, 40.0),
    ({"weights": "int8", "activations": "int8", "dynamic": True}, 40.0),
    ({"weights": "int8", "activations": "int8", "dynamic": True, "group": 32}, 40.0),
    ({"weights": "int4"}, 15.0),
    ({"weights": "int4", "group": 16}, 17.0),
    ({"weights": "int4", "activations": "int8", "dynamic": True}, 15.0),
    ({"weights": "int4", "activations": "int8", "dynamic": True, "group": 16}, 17.0),
    ({"weights": "int4", "group": 16, "symmetric": False}, 17.0),
    ({"weights": "int8", "symmetric": False}, 40.0),
    ({"weights": "int2", "activations": "int8", "dynamic": True, "group": 32, "symmetric": False}, 5.0),
    ({"weights": "fp8"}, 29.0),
    ({"weights": "fp8", "activations": "fp8"}, 29.0),
]
RANGES = ["absmax", "percentile", "mse"]


def ident(value):
    return "-".join(map(str, value.values())) if isinstance(value, dict) else None


@pytest.fixture
def inputs(tiny_model, tiny_tokens):
    return examples(tiny_model().shape, tiny_tokens.part("held_out", 8)).inputs


@pytest.mark.parametrize("ranges", RANGES)
@pytest.mark.parametrize(("settings", "least_db"), FORMATS, ids=ident)
def test_every_layer_is_quantized_and_the_model_keeps_its_opinions(
    tiny_model, context, inputs, settings, least_db, ranges
):
    model = tiny_model()
    nearest = Quantize(**settings, ranges=ranges, percentile=99.99, rounding="nearest", down="same", head="same")
    outcome = nearest.run(model, context())
    layers = quantizations(outcome.model.transformer)
    assert list(layers) == [*(name for name, _ in model.transformer.linears()), "head"]
    notes = outcome.notes
    assert notes.layers == len(layers) == 15
    # 2 x (4 x 32 x 32 + 3 x 32 x 40) and a head of 17 x 32, of 17472 weights
    assert notes.share_of_weights == round((15_872 + 544) / 17_472, 4)
    assert notes.sqnr_db_median >= notes.sqnr_db_worst > least_db - 3
    assert notes.sqnr_db_median > least_db
    assert notes.worst_layer in layers
    exact, rounded = model.score(inputs), outcome.model.score(inputs)
    drift = np.sqrt(((exact - rounded) ** 2).mean() / (exact**2).mean())
    assert 0 < drift < {"int8": 0.06, "fp8": 0.16, "int4": 0.4, "int2": 1.3}[settings["weights"]]
    assert quantizations(model.transformer) == {}, "the input is left as it was"


SYMMETRIC = [formats for formats, _ in FORMATS if formats.get("symmetric", True)]


@pytest.mark.parametrize("settings", SYMMETRIC, ids=ident)
def test_weights_have_the_scales_of_their_range(tiny_model, context, settings):
    model = tiny_model()
    quantized = Quantize(**settings, ranges="absmax", rounding="nearest", down="same").run(model, context()).model
    largest = 64 if settings.get("reduce_range") else {"int8": 127, "int4": 7, "fp8": 448}[settings["weights"]]
    weight = model.transformer.blocks[1].ffn.down.weight.detach()  # 40 inputs: the last group is short
    layer = quantized.transformer.blocks[1].ffn.down
    width = settings.get("group") or 40
    wanted = torch.stack([part.abs().amax(1) for part in weight.split(width, dim=1)], dim=1) / largest
    torch.testing.assert_close(layer.weight_scale, wanted)
    assert float(layer.weight.float().abs().max()) == largest


@pytest.mark.parametrize(
    ("settings", "top"),
    [({"weights": "int8", "activations": "int8"}, 127), ({"weights": "fp8", "activations": "fp8"}, 448)],
)
def test_static_scales_come_from_the_calibration_tokens_alone(tiny_model, tiny_tokens, context, settings, top):
    model, ours = tiny_model(), context(calibration=8)
    layer = Quantize(**settings, ranges="absmax").run(model, ours).model.transformer.blocks[0].attention.query
    transformer = model.transformer
    batch = examples(model.shape, tiny_tokens.part("train", 8))
    x = transformer.blocks[0].attention_norm(transformer.embedding(torch.from_numpy(batch.inputs)))
    assert float(layer.activation_scale) == pytest.approx(float(x.detach().abs().max()) / top)


def test_a_percentile_clips_more_than_the_absmax(tiny_model, context):
    formats = {"weights": "int8", "activations": "int8", "reduce_range": False, "down": "same"}
    scales = {}
    for ranges in RANGES:
        layer = Quantize(**formats, ranges=ranges, percentile=90.0).run(tiny_model(), context()).model.transformer
        scales[ranges] = layer.blocks[0].ffn.down
    for name in ("weight_scale", "activation_scale"):
        assert (getattr(scales["percentile"], name) < getattr(scales["absmax"], name)).all()
        assert (getattr(scales["mse"], name) <= getattr(scales["absmax"], name)).all()


def test_mse_ranges_have_the_least_error(tiny_model, context):
    def noise(ranges):
        settings = Quantize(weights="int4", ranges=ranges, percentile=97.0, rounding="nearest", head="float")
        return settings.run(tiny_model(), context()).notes.sqnr_db_worst

    assert noise("mse") > max(noise("absmax"), noise("percentile"))


@pytest.mark.parametrize("ranges", RANGES)
def test_static_int8_products_cannot_saturate_unless_the_recipe_names_a_processor(tiny_model, context, ranges):
    settings = parse(Quantize, {"activations": "int8", "ranges": ranges}, "q")
    for cpu, safe in (("any", True), ("vnni", False)):
        outcome = settings.deployed_on(cpu, ["tensorrt"]).run(tiny_model(), context())
        layers = [layer for layer in outcome.model.transformer.modules() if isinstance(layer, QuantizedLinear)]
        assert all(is_limited(layer.weight.numpy()) for layer in layers) == safe
        assert max(int(layer.weight.abs().max()) for layer in layers) > LARGEST_REDUCED
        if ranges == "mse":
            assert outcome.notes.sqnr_db_worst > 36  # 34 within -64..64, 40 in full range


def test_absmax_leaves_room_for_the_largest_sum_of_a_pair(tiny_model, context):
    model = tiny_model()
    made = Quantize(activations="int8", ranges="absmax", down="same").run(model, context()).model
    weight = model.transformer.blocks[1].ffn.down.weight.detach()
    sums = weight.unflatten(1, (-1, 2)).sum(dim=2).abs().amax(dim=1)
    wanted = torch.maximum(weight.abs().amax(dim=1) / 127, sums / 128)
    torch.testing.assert_close(made.transformer.blocks[1].ffn.down.weight_scale[:, 0], wanted)


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({"activations": "int8"}, "pairs"),
        ({"activations": "int8", "reduce_range": True}, True),
        ({"activations": "int8", "reduce_range": False}, False),
        ({"activations": "int8", "dynamic": True}, False),
        ({"weights": "int4"}, False),
        ({"weights": "fp8"}, False),
        ({}, False),
    ],
)
def test_weights_are_limited_only_where_products_could_saturate(settings, limit):
    assert Quantize(**settings).spec().reduce_range == limit


def test_a_processor_changes_what_auto_is_and_nothing_else():
    assert Quantize().deployed_on("vnni", ["onnxruntime"]) == Quantize(reduce_range=False)
    assert Quantize(reduce_range=True).deployed_on("vnni", []) == Quantize(reduce_range=True)
    assert Quantize().deployed_on("any", ["onnxruntime"]) == Quantize()


@pytest.mark.parametrize(
    ("head", "wanted"),
    [
        ("auto", LinearQuantization("int8")),
        ("int8", LinearQuantization("int8")),
        ("same", LinearQuantization("int4", "int8", dynamic=True, group=16)),
        ("float", None),
    ],
)
def test_the_head_has_weights_of_eight_bits_or_what_is_asked_for(tiny_model, context, head, wanted):
    settings = Quantize(weights="int4", activations="int8", dynamic=True, group=16, head=head)
    assert quantizations(settings.run(tiny_model(), context()).model.transformer).get("head") == wanted


@pytest.mark.parametrize(
    ("settings", "targets", "down", "head"),
    [
        ({"activations": "int8"}, ["onnxruntime"], "dynamic", "auto"),
        ({"activations": "int8"}, ["onnxruntime", "standard"], "same", "auto"),
        ({"activations": "int8"}, ["tensorrt"], "same", "float"),
        ({"weights": "int4"}, ["tensorrt", "onnxruntime"], "auto", "float"),
        ({"weights": "fp8", "activations": "fp8"}, ["tensorrt"], "auto", "float"),
        ({"activations": "int8", "down": "dynamic", "head": "int8"}, ["tensorrt"], "dynamic", "int8"),
    ],
)
def test_auto_becomes_what_suits_all_targets_of_a_chain(settings, targets, down, head):
    made = Quantize(**settings).deployed_on("any", targets)
    assert (made.down, made.head) == (down, head)


def test_static_activations_are_dynamic_where_their_range_is_worst(tiny_model, context):
    specs = quantizations(Quantize(activations="int8").run(tiny_model(), context()).model.transformer)
    finer = LinearQuantization("int8", "int8", dynamic=True, group=64)
    assert {name for name, spec in specs.items() if spec == finer} == {f"blocks.{i}.ffn.down" for i in range(2)}
    assert specs["blocks.0.ffn.up"] == LinearQuantization("int8", "int8", reduce_range="pairs")


def test_layers_are_kept_or_changed_by_patterns(tiny_model, context):
    override = {"*.ffn.*": {"group": 16}, "blocks.1.ffn.down": {"weights": "int8", "symmetric": False}}
    settings = parse(Quantize, {"weights": "int4", "keep": ["blocks.0.attention.*", "head"], "override": override}, "q")
    made = settings.run(tiny_model(), context()).model.transformer
    specs = quantizations(made)
    assert "head" not in specs
    assert not [name for name in specs if name.startswith("blocks.0.attention.")]
    assert specs["blocks.1.attention.key"] == LinearQuantization("int4")
    assert specs["blocks.0.ffn.down"] == LinearQuantization("int4", group=16)
    assert specs["blocks.1.ffn.down"] == LinearQuantization("int8", group=16, symmetric=False)


@pytest.mark.parametrize("settings", [{"head": "int8"}, {"override": {"*.key": {"activations": "none"}}}])
def test_weights_alone_do_not_go_beside_static_activations(tiny_model, settings):
    with pytest.raises(PassError) as caught:
        parse(Quantize, {"activations": "int8", **settings}, "q").requires(tiny_model())
    assert "int8 weights alone and blocks.0.attention.query static activations" in str(caught.value)


def test_the_head_stays_in_float_beside_static_activations(tiny_model, context):
    made = Quantize(activations="int8").run(tiny_model(), context()).model
    assert "head" not in quantizations(made.transformer)


def test_int8_weights_are_limited_where_an_override_makes_their_activations_static(tiny_model, context):
    override = {"*.key": {"weights": "int8", "activations": "int8"}}
    made = (
        parse(Quantize, {"weights": "int4", "head": "float", "override": override}, "q")
        .run(tiny_model(), context())
        .model
    )
    assert quantizations(made.transformer)["blocks.0.attention.key"].reduce_range == "pairs"
    assert is_limited(made.transformer.blocks[0].attention.key.weight.numpy())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"keep": ["*.ffn.dwn"]}, "quantize: keep: '*.ffn.dwn' matches none of 15 layers; did you mean "),
        ({"override": {"blocks.0.ffn.dwon": {"group": 16}}}, "quantize: override: 'blocks.0.ffn.dwon' matches none"),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_name(tiny_model, context, settings, text):
    with pytest.raises(PassError) as caught:
        parse(Quantize, settings, "q").requires(tiny_model())
    assert f"quantize: {caught.value}".startswith(text)
    assert ".ffn.down'" in str(caught.value)


def test_gptq_gives_outputs_nearer_than_the_nearest_codes_and_says_what_it_did(tiny_model, tiny_tokens, context):
    model, scores = tiny_model(), {}
    batch = examples(model.shape, tiny_tokens.part("held_out", 8))
    for rounding in ("nearest", "gptq"):
        outcome = Quantize(weights="int4", rounding=rounding, head="float").run(model, context(calibration=32))
        assert outcome.notes.rounded == rounding
        scores[rounding] = float(np.square(outcome.model.score(batch.inputs) - model.score(batch.inputs)).mean())
    assert scores["gptq"] < 0.8 * scores["nearest"]


@pytest.mark.parametrize("reduce_range", ["pairs", True])
def test_gptq_keeps_to_the_range_that_static_products_need(tiny_model, context, reduce_range):
    settings = Quantize(activations="int8", rounding="gptq", reduce_range=reduce_range, head="float", down="same")
    made = settings.run(tiny_model(), context()).model.transformer
    layers = [layer for layer in made.modules() if isinstance(layer, QuantizedLinear)]
    assert all(is_limited(layer.weight.numpy()) for layer in layers)


def test_too_few_pictures_for_gptq_are_refused_by_name_and_left_to_the_nearest_code_by_auto(tiny_model, context):
    few = context(tiny_model(ffn=200), calibration=2)
    with pytest.raises(PassError) as caught:
        Quantize(weights="int4", rounding="gptq").run(tiny_model(ffn=200), few)
    assert str(caught.value) == (
        "quantize: rounding: gptq: blocks.0.ffn.down has 200 inputs and needs as many rows of them, at least 4 "
        "calibration pictures; there are 2: raise tokens.calibration, or use rounding: auto"
    )
    notes = Quantize(weights="int4").run(tiny_model(ffn=200), few).notes
    assert notes.nearest == ("blocks.0.ffn.down", "blocks.1.ffn.down")
    assert notes.rounded == "gptq"


def test_modulation_is_rounded_for_every_class_whichever_the_pictures_have(tiny_model, tiny_tokens, context):
    model = tiny_model(order="masked", positions="learned", modulation="class")
    zeros = TokenSet(tiny_tokens.tokens, np.zeros_like(tiny_tokens.labels), tiny_tokens.parts)
    transformer, layers = model.transformer, []
    for pictures in (tiny_tokens, zeros):  # of ten classes, and of one
        outcome = Quantize(weights="int4").run(model, context(model, tokens=pictures))
        layers.append(outcome.model.transformer.blocks[0].modulation.linear)
    assert torch.equal(layers[0].weight, layers[1].weight)
    exact = transformer.blocks[0].modulation.linear
    nearest = Quantize(weights="int4", rounding="nearest").run(model, context(model)).model.transformer
    with torch.no_grad():
        x = torch.nn.functional.silu(transformer.class_vector(torch.arange(11)))
        errors = [
            float((layer(x) - exact(x)).square().sum()) for layer in (layers[0], nearest.blocks[0].modulation.linear)
        ]
    assert errors[0] < 0.2 * errors[1]


def test_what_stays_in_float_is_listed_with_its_bytes(tiny_model, context):
    notes = Quantize(weights="int4").run(tiny_model(), context()).notes
    norms = [f"blocks.{index}.{name}_norm.weight" for index in range(2) for name in ("attention", "ffn")]
    assert notes.float_bytes == {"embedding.weight": 28 * 32 * 4, **dict.fromkeys([*norms, "norm.weight"], 32 * 4)}


def test_streams_of_the_calibration_pictures_are_kept_where_layers_are_looked_at(tiny_model, tiny_tokens):
    assert Quantize(weights="int4").keeps(tiny_model(), tiny_tokens, 16) == 16 * 4 * 64 * 32
    assert Quantize(activations="int8").keeps(tiny_model(), tiny_tokens, 16) == 16 * 4 * 64 * 32
    assert Quantize(activations="int8", dynamic=True).keeps(tiny_model(), tiny_tokens, 16) == 0
    assert Quantize(weights="int4", rounding="nearest").keeps(tiny_model(), tiny_tokens, 16) == 0


def test_a_rehearsal_has_fewer_pictures_than_gptq_may_need():
    assert Quantize(rounding="gptq").rehearsal() == (Quantize(), 1.0)
    assert Quantize(rounding="nearest").rehearsal() == (Quantize(rounding="nearest"), 1.0)


@pytest.mark.parametrize(
    ("settings", "may"),
    [
        ({"activations": "int8", "reduce_range": False}, True),
        ({"reduce_range": False, "override": {"*.key": {"activations": "int8"}}}, True),
        ({"reduce_range": False}, False),
        ({"activations": "int8"}, False),
    ],
)
def test_products_may_saturate_where_any_layer_has_full_range_weights_and_static_inputs(settings, may):
    assert parse(Quantize, settings, "q").may_saturate == may


def test_biases_are_kept_as_they_are(tiny_model, context):
    model = tiny_model(bias=True)
    layer = Quantize(weights="int4").run(model, context()).model.transformer.blocks[0].ffn.up
    assert torch.equal(layer.bias, model.transformer.blocks[0].ffn.up.bias)


def test_parameters_are_counted_alike_before_and_after(tiny_model, context):
    model = tiny_model(bias=True)
    assert Quantize(weights="int4", group=16).run(model, context()).model.parameters() == model.parameters()


def test_progress_is_reported_by_layer(tiny_model, context):
    steps = []
    Quantize().run(tiny_model(), context(report=lambda step, count, values: steps.append((step, count))))
    assert steps == [(index, 15) for index in range(1, 16)]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"head": "int8"},
            "head: int8, but the head is tied to the embedding; use embedding: int8 or int4, which both share",
        ),
        ({"embedding": "fp16"}, "embedding: fp16, but the head is tied to it; use int8, int4 or none"),
    ],
)
def test_a_tied_head_is_quantized_with_the_embedding_or_not_at_all(tiny_model, context, settings, text):
    with pytest.raises(PassError) as caught:
        Quantize(**settings).run(tiny_model(tied_head=True), context())
    assert str(caught.value) == f"quantize: {text}"


def test_a_model_is_quantized_once(tiny_model, context):
    once = Quantize().run(tiny_model(), context()).model
    with pytest.raises(PassError) as caught:
        Quantize(weights="int4").run(once, context())
    assert str(caught.value) == "quantize: the model has 15 quantized layers already; quantize once"


def test_activations_that_are_no_numbers_are_refused_by_name(tiny_model, context):
    model = tiny_model()
    with torch.no_grad():
        model.transformer.blocks[0].attention.output.weight[0, 0] = float("nan")
    with pytest.raises(PassError) as caught:
        Quantize(activations="int8").run(model, context())
    assert str(caught.value) == "quantize: blocks.0.ffn.gate: activations hold NaN or Inf"


def test_more_calibration_pictures_than_exist_are_refused(tiny_model, context):
    with pytest.raises(PassError, match="quantize: 500 train pictures are asked for, but only 96 exist"):
        Quantize(activations="int8").run(tiny_model(), context(calibration=500))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"weights": "fp8", "activations": "int8"}, "q: weights fp8 with activations int8: no engine multiplies these"),
        ({"weights": "int4", "activations": "int8"}, "q: weights int4 with activations int8: no engine has a static"),
        ({"dynamic": True}, "q: dynamic with activations none: only int8 activations can be dynamic"),
        ({"weights": "fp8", "group": 32}, "q: group 32 with weights fp8"),
        ({"group": 24}, "q: group 24: must be 0 or a power of two from 16 to 65536"),
        ({"weights": "fp8", "reduce_range": True}, "q: reduce_range with weights fp8"),
        ({"weights": "fp4"}, "q.weights: 'fp4' is not one of 'fp8', 'int2', 'int4', 'int8'"),
        ({"percentile": 10}, "q.percentile: 10.0 is out of range; it must be between 50 and 100"),
    ],
)
def test_settings_that_no_engine_computes_are_refused_while_the_recipe_is_read(settings, text):
    with pytest.raises(InputError) as caught:
        parse(Quantize, settings, "q")
    assert str(caught.value).startswith(text)


def test_signal_to_noise_is_worked_in_decibels() -> None:
    exact = torch.tensor([3.0, 4.0])
    assert sqnr_db(exact, [torch.tensor([3.0]), torch.tensor([3.5])]) == pytest.approx(20.0)  # 25 to 0.25
    assert sqnr_db(exact, [exact]) == 200.0
    assert sqnr_db(exact, [torch.zeros(2)]) == pytest.approx(0.0)
    assert math.isfinite(sqnr_db(torch.zeros(2), [torch.zeros(2)]))


def test_a_quantized_model_shares_what_it_leaves_alone_and_changes_nothing_of_its_input(tiny_model, context):
    model = tiny_model()
    before = {name: value.clone() for name, value in model.transformer.state_dict().items()}
    quantized = Quantize(weights="int8").run(model, context()).model.transformer
    after = model.transformer.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert quantized.embedding.weight is model.transformer.embedding.weight
    assert quantized.blocks[0] is not model.transformer.blocks[0]


def test_the_format_named_is_the_format_of_the_layers(tiny_model, context):
    settings = Quantize(weights="int4", activations="int8", dynamic=True, group=32)
    specs = quantizations(settings.run(tiny_model(), context()).model.transformer)
    assert set(specs.values()) == {settings.spec(), LinearQuantization("int8")}
    assert replace(settings, group=0).spec().largest == 7


def test_the_embedding_can_be_all_that_is_quantized(tiny_model, context) -> None:
    model = tiny_model()
    outcome = Quantize("int8", keep=("*",), embedding="int8").run(model, context(model))
    assert (outcome.notes.layers, outcome.notes.worst_layer, outcome.notes.sqnr_db_median) == (0, None, None)
    with pytest.raises(PassError, match="keep leaves no layer to quantize, and the embedding stays too"):
        Quantize("int8", keep=("*",)).run(model, context(model))
