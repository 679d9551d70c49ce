"""Stand-ins of quantized layers: the same numbers forward, the gradients of a float layer backward."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.models.transformer.examples import examples
from compress.models.transformer.quantized import LinearQuantization, QuantizedLinear, quantizations
from compress.models.transformer.straight_through import StraightThroughLinear, settled, trainable
from compress.passes.quantize import Quantize

FORMATS = [
    {"weights": "int8"},
    {"weights": "int4", "group": 16},
    {"weights": "int4", "group": 16, "symmetric": False},
    {"weights": "int8", "activations": "int8"},
    {"weights": "int4", "activations": "int8", "dynamic": True, "group": 16},
    {"weights": "fp8", "activations": "fp8"},
]


@pytest.mark.parametrize("settings", FORMATS, ids=lambda settings: "-".join(map(str, settings.values())))
@pytest.mark.parametrize("bias", [False, True])
def test_a_trainable_copy_computes_exactly_what_the_quantized_model_does(
    tiny_model, tiny_tokens, context, settings, bias
):
    model = Quantize(**settings).run(tiny_model(bias=bias), context()).model.transformer
    student = trainable(model)
    inputs = torch.from_numpy(examples(model.config.shape, tiny_tokens.part("held_out", 3)).inputs)
    with torch.no_grad():
        assert torch.equal(student(inputs), model(inputs))
    stand_ins = [module for module in student.modules() if isinstance(module, StraightThroughLinear)]
    assert len(stand_ins) == len(quantizations(model)) in (14, 15)
    assert all(parameter.requires_grad for parameter in student.parameters())
    back = settled(student)
    assert quantizations(back) == quantizations(model)
    for name, value in model.state_dict().items():
        assert torch.equal(back.state_dict()[name].float(), value.float()), name


def test_training_the_copy_leaves_the_model_alone_and_settles_on_its_grid(tiny_model, tiny_tokens, context):
    model = Quantize(weights="int4").run(tiny_model(bias=True), context()).model.transformer
    before = {name: value.clone() for name, value in model.state_dict().items()}
    student = trainable(model)
    inputs = torch.from_numpy(examples(model.config.shape, tiny_tokens.part("train", 4)).inputs)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
    student(inputs).square().mean().backward()
    optimizer.step()
    taught = settled(student)
    with torch.no_grad():
        assert torch.equal(taught(inputs), student(inputs)), "what was trained is what is kept"
    layer, old = taught.blocks[0].ffn.up, model.blocks[0].ffn.up
    assert not torch.equal(layer.weight, old.weight)
    assert torch.equal(layer.weight_scale, old.weight_scale)
    assert not torch.equal(layer.bias, old.bias)
    assert not taught.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_gradients_are_those_of_a_float_layer_with_the_rounded_numbers():
    torch.manual_seed(0)
    linear, x, outward = nn.Linear(8, 3), torch.randn(5, 8, requires_grad=True), torch.randn(5, 3)
    scale = linear.weight.detach().abs().amax(1, keepdim=True) / 7
    layer = StraightThroughLinear(QuantizedLinear.of(linear, LinearQuantization("int4"), scale))
    layer(x).backward(outward)
    torch.testing.assert_close(layer.weight.grad, outward.T @ x.detach())
    torch.testing.assert_close(x.grad, outward @ layer.quantized.dequantized())
    torch.testing.assert_close(layer.bias.grad, outward.sum(0))


def test_weights_at_the_end_of_the_range_learn_and_weights_beyond_it_do_not():
    quantized = QuantizedLinear(3, 1, LinearQuantization("int8"))
    quantized.weight.copy_(torch.tensor([[127, -127, 5]]))
    layer = StraightThroughLinear(quantized)
    layer(torch.ones(1, 3)).backward()
    assert layer.weight.grad.tolist() == [[1.0, 1.0, 1.0]]
    layer.weight.grad = None
    with torch.no_grad():
        layer.weight += torch.tensor([[1.0, -1.0, 0.0]])
    layer(torch.ones(1, 3)).backward()
    assert layer.weight.grad.tolist() == [[0.0, 0.0, 1.0]]
    assert layer.rounded().weight.tolist() == [[127, -127, 5]]


@pytest.mark.parametrize(("activations", "top"), [("int8", 127.0), ("fp8", 448.0)])
def test_inputs_beyond_a_static_range_pass_no_gradient(activations, top):
    quantized = QuantizedLinear(4, 1, LinearQuantization(activations, activations))
    quantized.weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]).to(quantized.weight.dtype))
    x = torch.tensor([[top + 9, -top - 9, 0.3, top]], requires_grad=True)
    StraightThroughLinear(quantized)(x).sum().backward()
    assert x.grad.tolist() == [[0.0, 0.0, 3.0, 4.0]]


def test_inputs_with_dynamic_scales_all_pass_their_gradient():
    quantized = QuantizedLinear(4, 2, LinearQuantization("int8", "int8", dynamic=True))
    quantized.weight.copy_(torch.tensor([[1, 2, 3, 4], [10, 20, 30, 40]]))
    x = torch.tensor([[100.0, -0.3, 0.2, 7.0]], requires_grad=True)
    y = StraightThroughLinear(quantized)(x)
    assert torch.equal(y, functional.linear(quantized.quantized_input(x), quantized.dequantized()))
    y.sum().backward()
    assert x.grad.tolist() == [[11.0, 22.0, 33.0, 44.0]]


def learned_layer(quantized, **settings):
    """A stand-in whose scales are trained, and what LSQ multiplies their gradients by."""
    layer = StraightThroughLinear(quantized, learned=True, **settings)
    return layer, layer.weight_step.share


def test_the_gradient_of_a_weights_scale_is_lsqs_worked_by_hand():
    quantized = QuantizedLinear(4, 1, LinearQuantization("int4"))
    quantized.weight_scale.fill_(0.5)
    layer, share = learned_layer(quantized)
    assert share == pytest.approx((4 * 7) ** -0.5), "4 weights share the scale, 7 is the largest code"
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.6, -1.4, 9.0, -9.0]]))  # over the scale: 1.2, -2.8, and two that clip
    x = torch.tensor([[2.0, 3.0, 5.0, 11.0]])
    layer(x).backward()
    # codes 1, -3, 7, -8: by the scale 1 - 1.2, -3 + 2.8, 7, -8; by its logarithm 0.5 times that
    by_scale = 2 * (1 - 1.2) + 3 * (-3 + 2.8) + 5 * 7 - 11 * 8
    assert layer.weight_step.growth.grad.item() == pytest.approx(share * 0.5 * by_scale, rel=1e-5)
    assert layer.weight.grad.tolist() == [[2.0, 3.0, 0.0, 0.0]]


def test_the_gradient_of_a_scale_with_a_zero_point_is_worked_by_hand():
    quantized = QuantizedLinear(3, 1, LinearQuantization("int4", symmetric=False))
    quantized.weight_scale.fill_(0.5)
    quantized.weight_zero.fill_(-5)  # codes -8 to 7 stand for -3 to 12 steps
    layer, share = learned_layer(quantized)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[5.6, -1.4, -9.0]]))  # over the scale: 11.2, -2.8, and one that clips
    layer(torch.tensor([[2.0, 3.0, 5.0]])).backward()
    by_scale = 2 * (11 - 11.2) + 3 * (-3 + 2.8) + 5 * -3
    assert layer.weight_step.growth.grad.item() == pytest.approx(share * 0.5 * by_scale, rel=1e-4)
    assert layer.weight.grad.tolist() == [[2.0, 3.0, 0.0]]


def test_the_gradient_of_an_inputs_scale_is_lsqs_worked_by_hand():
    quantized = QuantizedLinear(3, 1, LinearQuantization("int8", "int8"))
    quantized.weight.copy_(torch.tensor([[2, 3, 5]]))
    quantized.activation_scale.fill_(0.1)
    layer, _ = learned_layer(quantized)
    layer(torch.tensor([[0.32, -0.48, 40.0]])).sum().backward()
    # codes 3, -5, 127 of 3.2, -4.8, 400
    by_scale = 2 * (3 - 3.2) + 3 * (-5 + 4.8) + 5 * 127
    assert layer.input_step.growth.grad.item() == pytest.approx((3 * 127) ** -0.5 * 0.1 * by_scale, rel=1e-5)


def test_pairs_that_are_limited_teach_the_scale_by_the_codes_that_they_got():
    quantized = QuantizedLinear(2, 1, LinearQuantization("int8", "int8", reduce_range="pairs"))
    layer, share = learned_layer(quantized)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[120.0, 110.0]]))
    layer(torch.tensor([[1.0, 1.0]])).backward()
    codes = layer.rounded().weight[0].tolist()
    assert sum(codes) < 230
    assert layer.weight_step.growth.grad.item() == pytest.approx(share * (sum(codes) - 230), rel=1e-5)


@pytest.mark.parametrize("settings", FORMATS, ids=lambda settings: "-".join(map(str, settings.values())))
def test_learned_scales_begin_where_they_were_and_settle_where_they_came(tiny_model, tiny_tokens, context, settings):
    model = Quantize(**settings).run(tiny_model(), context()).model.transformer
    student = trainable(model, learn_scales=True)
    inputs = torch.from_numpy(examples(model.config.shape, tiny_tokens.part("held_out", 3)).inputs)
    with torch.no_grad():
        assert torch.equal(student(inputs), model(inputs))
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    student(inputs).square().mean().backward()
    optimizer.step()
    taught = settled(student)
    with torch.no_grad():
        assert torch.equal(taught(inputs), student(inputs)), "what was trained is what is kept"
    assert quantizations(taught) == quantizations(model)
    ratio = taught.blocks[0].ffn.up.weight_scale / model.blocks[0].ffn.up.weight_scale
    assert not torch.equal(ratio, torch.ones_like(ratio))
    assert (ratio - 1).abs().max() < 0.011, "one step of Adam is one learning rate of the logarithm"


def test_layers_that_read_the_same_input_keep_one_scale(tiny_model, tiny_tokens, context):
    model = Quantize(weights="int8", activations="int8").run(tiny_model(), context()).model.transformer
    student = trainable(model, learn_scales=True)
    inputs = torch.from_numpy(examples(model.config.shape, tiny_tokens.part("train", 3)).inputs)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    student(inputs).square().mean().backward()
    optimizer.step()
    block, old = settled(student).blocks[0], model.blocks[0]
    scales = [layer.activation_scale for layer in (block.attention.query, block.attention.key, block.attention.value)]
    assert scales[0] == scales[1] == scales[2] != old.attention.query.activation_scale
    assert block.ffn.gate.activation_scale == block.ffn.up.activation_scale != block.ffn.down.activation_scale


def test_fixed_scales_have_nothing_to_train(tiny_model, context):
    model = Quantize(weights="int8", activations="int8").run(tiny_model(), context()).model.transformer
    assert not [name for name, _ in trainable(model).named_parameters() if "step" in name]
    learned = [name for name, _ in trainable(model, learn_scales=True).named_parameters() if "step" in name]
    # A block has weights in 7 layers, and static inputs of query, key and value, of output, and of gate and up.
    assert len(learned) == 2 * (7 + 3), "the head stays in float"
