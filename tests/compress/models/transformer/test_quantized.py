"""Quantized layers against NumPy: rounding half to even, saturation, short groups, scales as activations come."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

from compress.core.settings import InputError
from compress.models.transformer.quantized import (
    LinearQuantization,
    QuantizedLinear,
    dequantize_weight,
    install,
    parameter_count,
    quantizations,
    quantize_dynamic,
    quantize_static,
    quantize_weight,
    rounded_input,
)

SPECS = [
    LinearQuantization("int8"),
    LinearQuantization("int8", group=16),
    LinearQuantization("int8", reduce_range=True),
    LinearQuantization("int8", "int8"),
    LinearQuantization("int8", "int8", dynamic=True),
    LinearQuantization("int8", "int8", dynamic=True, group=32),
    LinearQuantization("int4"),
    LinearQuantization("int4", group=16),
    LinearQuantization("int4", "int8", dynamic=True, group=16),
    LinearQuantization("int4", group=16, symmetric=False),
    LinearQuantization("int2", "int8", dynamic=True, group=16, symmetric=False),
    LinearQuantization("fp8"),
    LinearQuantization("fp8", "fp8"),
]


def name_of(spec):
    """A readable test id."""
    extra = [word for word in ("dynamic", "reduce_range") if getattr(spec, word)] + [f"g{spec.group}"] * bool(
        spec.group
    )
    extra += [] if spec.symmetric else ["zero"]
    return "-".join([spec.weights, spec.activations, *extra])


def fp8(array):
    """E4M3 by ml_dtypes, saturating."""
    return np.clip(array, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)


def forward(x, weight, bias, scale, zero, activation_scale, spec):
    """The layer in NumPy, input by input."""
    outputs, inputs = weight.shape
    low, top = {"int8": (-127, 127), "int4": (-8, 7), "int2": (-2, 1), "fp8": (-448, 448)}[spec.weights]
    if spec.reduce_range:
        low, top = -64, 64
    acting = np.empty_like(weight)
    for n, k in itertools.product(range(outputs), range(inputs)):
        place = n, k // spec.group if spec.group else 0
        step, middle = scale[place], zero[place]
        scaled = weight[n, k] / step
        code = fp8(scaled) if spec.weights == "fp8" else np.clip(np.rint(scaled + middle), low, top)
        acting[n, k] = step * (code - middle)
    if spec.activations == "fp8":
        x = fp8(x / activation_scale) * activation_scale
    elif spec.static:
        x = np.clip(np.rint(x / activation_scale), -128, 127) * activation_scale
    elif spec.dynamic:
        x = x.copy()
        block = spec.group or 128
        for row in x:
            for start in range(0, inputs, block):
                part = row[start : start + block]
                largest = np.abs(part).max()
                part[:] = np.rint(part * (np.float32(127) / largest)) * (largest / np.float32(127))
    return x @ acting.T + bias


@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_a_layer_computes_what_its_numbers_say(spec):
    torch.manual_seed(0)
    linear, x = nn.Linear(40, 6), 3 * torch.randn(5, 40)  # 40: the last group of 16 or 32 is short
    scale = (
        torch.rand(6, spec.groups(40)) * 0.02 + 0.02
        if spec.weights in ("int4", "int2")
        else torch.rand(6, spec.groups(40)) * 2e-3 + 1e-4
    )
    zero = torch.zeros_like(scale) if spec.symmetric else torch.randint(-2, 2, scale.shape)
    layer = QuantizedLinear.of(linear, spec, scale, 0.021 if spec.static else None, zero)
    weight, bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()
    wanted = forward(x.numpy(), weight, bias, scale.numpy(), zero.numpy(), np.float32(0.021), spec)
    np.testing.assert_allclose(layer(x).numpy(), wanted, rtol=1e-5, atol=1e-5)
    assert layer.weight.dtype == (torch.float8_e4m3fn if spec.weights == "fp8" else torch.int8)
    assert layer(x[0]).shape == (6,)


def test_integers_round_half_to_even_and_saturate() -> None:
    weight = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.5, -127.5, 300.0, -300.0]])
    one = torch.ones(1, 1)
    int8 = quantize_weight(weight, one, LinearQuantization("int8"))
    assert int8.tolist() == [[0, 2, 2, 0, -2, 126, 127, -127, 127, -127]]
    assert quantize_weight(weight, one, LinearQuantization("int4")).tolist() == [[0, 2, 2, 0, -2, 7, 7, -8, 7, -8]]
    shifted = quantize_weight(weight, one, LinearQuantization("int4", symmetric=False), torch.tensor([[-3]]))
    assert shifted.tolist() == [[-2, -2, 0, -4, -4, 7, 7, -8, 7, -8]]
    narrow = quantize_weight(weight, one, LinearQuantization("int8", reduce_range=True))
    assert narrow.tolist() == [[0, 2, 2, 0, -2, 64, 64, -64, 64, -64]]


def test_static_int8_activations_use_all_256_codes() -> None:
    x = torch.tensor([0.25, 0.75, -0.25, 63.4, 64.0, -64.0, -64.4, -99.0])
    wanted = [0.0, 1.0, 0.0, 63.5, 63.5, -64.0, -64.0, -64.0]  # codes 0, 2, 0, 127, 127, -128, -128, -128
    assert quantize_static(x, torch.tensor(0.5), "int8").tolist() == wanted


def test_fp8_rounds_half_to_even_and_saturates_at_448() -> None:
    # E4M3 has 3 bits of fraction: between 16 and 32 values are 2 apart, and the smallest is 2^-9
    values = [17.0, 19.0, 21.0, 448.0, 463.0, 464.0, 1e6, -1e6, 2.0**-9, 2.0**-10, 1.5 * 2.0**-9]
    wanted = [16.0, 20.0, 20.0, 448.0, 448.0, 448.0, 448.0, -448.0, 2.0**-9, 0.0, 2.0**-8]
    assert rounded_input(torch.tensor(values), "fp8").tolist() == wanted


def test_fp8_agrees_with_ml_dtypes_on_every_value_and_every_midpoint() -> None:
    codes = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    values = np.unique(codes[np.isfinite(codes)])
    middles = (values[1:] + values[:-1]) / 2
    tested = np.concatenate([values, middles, np.nextafter(middles, np.inf), np.nextafter(middles, -np.inf)])
    tested = tested.astype(np.float32)
    np.testing.assert_array_equal(rounded_input(torch.from_numpy(tested), "fp8").numpy(), fp8(tested))


def test_groups_that_do_not_divide_the_inputs_leave_a_short_last_one() -> None:
    spec = LinearQuantization("int8", group=16)
    assert [spec.groups(inputs) for inputs in (16, 17, 32, 40)] == [1, 2, 2, 3]
    weight = torch.ones(1, 20)
    scale = torch.tensor([[0.5, 0.25]])
    codes = quantize_weight(weight, scale, spec)
    assert codes.tolist() == [[2] * 16 + [4] * 4]
    assert torch.equal(dequantize_weight(codes, scale, spec), weight)


def test_dynamic_activations_have_a_scale_for_every_token_and_block() -> None:
    x = torch.tensor([[127.0, 1.4, 0.0, 254.0, 3.0, 2.9], [0.0, 0.0, 0.0, 1.0, -0.5, 0.1]])
    # blocks of 4: row 0 has scales 2 and 3/127, row 1 scales 1/127 and 0.5/127; 63.5 rounds to 64, 0.7 to 1
    wanted = torch.tensor([[128.0, 2.0, 0.0, 254.0, 3.0, 123 * 3 / 127], [0, 0, 0, 1.0, -0.5, 25 * 0.5 / 127]])
    torch.testing.assert_close(quantize_dynamic(x, 4), wanted)
    assert torch.equal(quantize_dynamic(torch.zeros(2, 5), 4), torch.zeros(2, 5)), "no scale for nothing"


def test_a_static_layer_needs_its_activation_scale() -> None:
    spec = LinearQuantization("int8", "int8")
    with pytest.raises(ValueError, match="static int8 activations need an activation scale"):
        QuantizedLinear.of(nn.Linear(4, 2), spec, torch.ones(2, 1))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"weights": "fp8", "activations": "int8"},
            "weights fp8 with activations int8: no engine multiplies these; use activations fp8 or none",
        ),
        (
            {"weights": "int4", "activations": "fp8"},
            "weights int4 with activations fp8: no engine multiplies these; use activations int8 or none",
        ),
        (
            {"weights": "int8", "dynamic": True},
            "dynamic with activations none: only int8 activations can be dynamic",
        ),
        (
            {"weights": "fp8", "activations": "fp8", "dynamic": True},
            "dynamic with activations fp8: only int8 activations can be dynamic",
        ),
        (
            {"weights": "int4", "activations": "int8"},
            "weights int4 with activations int8: no engine has a static kernel for these; "
            "use dynamic: true or activations none",
        ),
        (
            {"weights": "fp8", "group": 32},
            "group 32 with weights fp8 and activations none: groups and zero points are for int8, int4 and int2 "
            "weights with dynamic or no "
            "activations; use group 0",
        ),
        (
            {"weights": "int8", "activations": "int8", "group": 32},
            "group 32 with weights int8 and static activations int8: groups and zero points are for int8, int4 "
            "and int2 weights with dynamic "
            "or no activations; use group 0",
        ),
        ({"weights": "int4", "group": 8}, "group 8: must be 0 or a power of two from 16 to 65536"),
        ({"weights": "int4", "group": 48}, "group 48: must be 0 or a power of two from 16 to 65536"),
        (
            {"weights": "int4", "reduce_range": True},
            "reduce_range with weights int4: only int8 weights have a range to reduce",
        ),
    ],
)
def test_formats_that_do_not_go_together_are_refused(settings, text):
    with pytest.raises(ValueError, match=r".") as caught:
        LinearQuantization(**settings)
    assert str(caught.value) == text


@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_installed_layers_take_the_state_of_quantized_ones(tiny_model, spec):
    name = "blocks.1.ffn.down"
    source, target = tiny_model(bias=True).transformer, tiny_model(bias=True, seed=1).transformer
    for model in (source, target):
        install(model, {name: spec}, "config.json: quantized")
        assert quantizations(model) == {name: spec}
    layer = source.get_submodule(name)
    layer.weight.copy_(torch.randint(-7, 8, (32, 40)).to(spec.storage))
    layer.weight_scale.uniform_(0.01, 0.02)
    target.load_state_dict(source.state_dict())
    x = torch.randn(3, 40)
    assert torch.equal(target.get_submodule(name)(x), layer(x))
    assert "activation_scale" in layer.state_dict() or not spec.static


def test_a_layer_that_does_not_exist_is_not_installed(tiny_model):
    for name in ("blocks.7.ffn.up", "blocks.0.ffn"):
        with pytest.raises(InputError) as caught:
            install(tiny_model().transformer, {name: SPECS[0]}, "config.json: quantized")
        assert str(caught.value) == f"config.json: quantized.{name}: is not a linear layer of this model"


def test_quantizing_does_not_change_the_number_of_parameters(tiny_model):
    for changes in ({}, {"bias": True}):
        model = tiny_model(**changes).transformer
        before = parameter_count(model)
        install(model, {"blocks.0.ffn.up": SPECS[0], "blocks.0.attention.key": SPECS[-1]}, "")
        assert (
            parameter_count(model)
            == before
            == sum(parameter.numel() for parameter in tiny_model(**changes).transformer.parameters())
        )


def test_printing_a_layer_shows_its_formats() -> None:
    text = repr(QuantizedLinear(40, 6, LinearQuantization("int4", group=16)))
    assert "in_features=40, out_features=6" in text
    assert "group=16" in text
