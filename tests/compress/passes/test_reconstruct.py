"""reconstruct: what can be made up for is made up for exactly, in every kind of model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from calibration.ranges import weight_scales
from compress.models.transformer.examples import examples
from compress.models.transformer.quantized import LinearQuantization, QuantizedLinear, replace_module
from compress.passes import PassError
from compress.passes.prune_layers import PruneLayers
from compress.passes.quantize import Quantize
from compress.passes.reconstruct import Reconstruct
from compress.passes.shared.blockwise import Streams
from compress.passes.shared.pruning import HEADS, UNITS, keep_groups, keep_layers
from compress.passes.shared.writers import watched, writers


@pytest.fixture
def rebuilt(any_model, any_tokens, context):
    """`rebuilt(transformer, ridge=0.1)`: the outcome of the pass towards `any_model`."""

    def run(transformer, **settings):
        ours = context(any_model, tokens=any_tokens, calibration=24)
        return Reconstruct(**settings).run(any_model.with_transformer(transformer), ours)

    return run


def logits(model, tokens):
    batch = examples(model.shape, tokens.part("held_out", 4))
    return torch.from_numpy(model.score(batch.inputs, batch.features))


def test_a_model_that_lost_nothing_stays_as_it_is(rebuilt, any_model):
    outcome = rebuilt(any_model.transformer)
    assert outcome.notes.repair.stream_error_before == outcome.notes.repair.stream_error_after == 0
    for name, value in outcome.model.transformer.state_dict().items():
        assert torch.equal(value, any_model.transformer.state_dict()[name])


def test_one_of_two_equal_units_makes_up_for_the_other(rebuilt, any_model, any_tokens):
    with torch.no_grad():
        for block in any_model.transformer.blocks:
            for name, parameter in block.ffn.named_parameters():
                if not name.startswith("down"):
                    parameter[7] = parameter[3]
    kept = [torch.tensor([unit for unit in range(40) if unit != 7])] * 2
    smaller = keep_groups(any_model.transformer, UNITS, kept)
    whole = logits(any_model, any_tokens)
    outcome = rebuilt(smaller, ridge=1e-9)
    assert (logits(any_model.with_transformer(smaller), any_tokens) - whole).abs().max() > 0.05
    torch.testing.assert_close(logits(outcome.model, any_tokens), whole, rtol=2e-3, atol=2e-3)
    assert outcome.notes.repair.stream_error_after < 1e-3 < outcome.notes.repair.stream_error_before
    down = any_model.transformer.blocks[0].ffn.down.weight.detach()
    made = outcome.model.transformer.blocks[0].ffn.down.weight.detach()
    torch.testing.assert_close(made[:, 3], down[:, 3] + down[:, 7], rtol=1e-2, atol=1e-2)


def test_a_model_that_lost_heads_and_units_comes_nearer(rebuilt, any_model):
    config, smaller = any_model.transformer.config, any_model.transformer
    if config.layers[0].kv_heads > 1:
        smaller = keep_groups(smaller, HEADS, [torch.arange(config.layers[0].kv_heads - 1)] * 2)
    smaller = keep_groups(smaller, UNITS, [torch.arange(30)] * 2)
    outcome = rebuilt(smaller)
    notes = outcome.notes.repair
    assert notes.stream_error_after < 0.95 * notes.stream_error_before
    assert notes.layers == sum(len(writers(block)) for block in smaller.blocks)
    assert (notes.kept, notes.underdetermined, notes.damped) == (None, None, ())
    assert outcome.model.transformer.config == smaller.config


def test_the_first_layer_solves_the_stacked_system(tiny_model, tiny_tokens, context):
    model = tiny_model()
    smaller = keep_groups(model.transformer, HEADS, [torch.tensor([0, 2])] * 2)
    pictures = tiny_tokens.part("train", 24)
    first = writers(smaller.blocks[0])[0]
    given, there = zip(*watched(Streams(smaller, pictures), smaller.blocks[0], first), strict=True)
    _, wanted = zip(*watched(Streams(model.transformer, pictures), model.transformer.blocks[0], first), strict=True)
    missing = [w - t for w, t in zip(wanted, there, strict=True)]
    inputs, outputs = (torch.cat(each).flatten(0, 1).double().numpy() for each in (given, missing))
    change = np.linalg.lstsq(inputs, outputs, rcond=None)[0].T
    made = Reconstruct(ridge=0).run(model.with_transformer(smaller), context(model, calibration=24)).model
    after, before = (each.blocks[0].attention.output.weight.detach().numpy() for each in (made.transformer, smaller))
    np.testing.assert_allclose(after - before, change, atol=1e-6)


def test_the_layer_in_front_makes_up_for_one_that_is_missing(tiny_model, tiny_tokens, context):
    model = tiny_model(layers=3, norm="layernorm", activation="gelu", bias=True)
    with torch.no_grad():  # the second layer adds the same numbers everywhere, which the first's bias can
        model.transformer.blocks[1].attention.output.weight.zero_()
        model.transformer.blocks[1].ffn.down.weight.zero_()
    smaller = model.with_transformer(keep_layers(model.transformer, [0, 2]))
    missing = model.transformer.blocks[1]
    wanted = model.transformer.blocks[0].ffn.down.bias + missing.attention.output.bias + missing.ffn.down.bias
    outcome = Reconstruct(ridge=1e-9).run(smaller, context(model, calibration=24))
    torch.testing.assert_close(logits(outcome.model, tiny_tokens), logits(model, tiny_tokens), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(outcome.model.transformer.blocks[0].ffn.down.bias, wanted, rtol=1e-3, atol=1e-3)


def test_layers_that_prune_layers_removed_are_found(tiny_model, context):
    model = tiny_model(layers=4)
    ours = context(model, calibration=24)
    smaller = PruneLayers(count=2, repair=False).run(model, ours)
    found = Reconstruct().run(smaller.model, ours)
    named = Reconstruct(removed=smaller.notes.removed_layers).run(smaller.model, ours)
    assert found.notes == named.notes
    assert found.notes.repair.stream_error_after < found.notes.repair.stream_error_before


def test_layers_in_front_of_the_first_that_is_kept_are_skipped(tiny_model, context):
    model = tiny_model(layers=3)
    smaller = model.with_transformer(keep_layers(model.transformer, [1, 2]))
    notes = Reconstruct().run(smaller, context(model, calibration=24)).notes.repair
    assert notes.stream_error_after < notes.stream_error_before


def rounded(transformer, names):
    """Put int4 layers in place of these."""
    for name in names:
        linear, spec = transformer.get_submodule(name), LinearQuantization("int4")
        scales = weight_scales(linear.weight.detach(), 0, spec.largest, spec.rounded, "absmax", 99.9, None)
        replace_module(transformer, name, QuantizedLinear.of(linear, spec, scales, None))
    return transformer


def test_float_layers_make_up_for_quantized_ones_before_them(tiny_model, context):
    model, coarse = tiny_model(), tiny_model()
    names = ["blocks.0.attention.value", "blocks.0.ffn.up", "blocks.1.attention.output"]
    rounded(coarse.transformer, names)
    outcome = Reconstruct().run(coarse, context(model, calibration=24))
    notes = outcome.notes.repair
    assert (notes.layers, notes.quantized) == (3, 1)
    assert notes.stream_error_after < notes.stream_error_before
    assert isinstance(outcome.model.transformer.blocks[1].attention.output, QuantizedLinear)


def test_a_model_without_float_layers_to_solve_is_refused(tiny_model, context):
    quantized = Quantize().run(tiny_model(), context()).model
    with pytest.raises(PassError) as caught:
        Reconstruct().run(quantized, context())
    assert str(caught.value) == (
        "reconstruct: all 4 layers that write into the stream are quantized; repair before quantize"
    )


def test_too_few_pictures_are_named_and_what_they_spoil_is_not_kept(tiny_model, tiny_tokens, context):
    model = tiny_model(ffn=96)
    ours = context(model, calibration=1)
    pruned = model.with_transformer(keep_groups(model.transformer, UNITS, [torch.arange(91)] * 2))
    notes = Reconstruct(ridge=0).run(pruned, ours).notes.repair
    assert notes.underdetermined == ("blocks.0.ffn.down: 64 positions for 91 inputs; calibrate on more pictures")
    assert notes.damped == ("blocks.0.ffn.down", "blocks.1.ffn.down")
    assert notes.kept == "the weights as they were; the stream came no nearer to the reference's"
    assert notes.stream_error_after == notes.stream_error_before


def test_without_validation_pictures_the_calibration_pictures_say_what_it_won(tiny_model, tiny_tokens, context):
    model = tiny_model()
    tokens = tiny_tokens.part("train")
    smaller = model.with_transformer(keep_groups(model.transformer, UNITS, [torch.arange(30)] * 2))
    notes = Reconstruct().run(smaller, context(model, tokens=tokens, calibration=24)).notes.repair
    assert 0 < notes.stream_error_after < notes.stream_error_before


def test_numbers_that_are_not_finite_are_refused_by_the_name_of_the_layer(tiny_model, context):
    model, broken = tiny_model(), tiny_model()
    with torch.no_grad():
        broken.transformer.blocks[1].ffn.up.weight[0, 0] = float("nan")
    with pytest.raises(PassError) as caught:
        Reconstruct().run(broken, context(model))
    assert str(caught.value) == (
        "reconstruct: blocks.1.ffn.down: what goes into it, or what is missing behind it, holds NaN or Inf"
    )


def test_a_reference_of_another_width_is_refused(tiny_model, context):
    with pytest.raises(PassError) as caught:
        Reconstruct().run(tiny_model(), context(tiny_model(width=64)))
    assert str(caught.value) == (
        "reconstruct: the reference's stream is 64 wide and the model's 32, so they cannot be compared; prune-width "
        "repairs what it makes, and so do passes behind it"
    )


def test_the_rehearsal_finds_the_layers_of_its_copy_and_streams_are_counted(tiny_model, tiny_tokens):
    settings = Reconstruct(removed=(1, 2))
    assert settings.rehearsal() == (replace(settings, removed=()), 1.0)
    model = tiny_model()
    assert settings.keeps(model, tiny_tokens, 16) == 2 * 16 * 4 * 32 * model.transformer.config.reach
