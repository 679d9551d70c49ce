"""prune-layers: the layers that cost least go."""

from __future__ import annotations

import pytest
import torch

from compress.core.settings import InputError
from compress.models.transformer.examples import examples, nll
from compress.passes import PassError
from compress.passes.prune_layers import PruneLayers
from compress.passes.quantize import Quantize
from compress.passes.shared.pruning import keep_layers


def weakened(model, index, factor):
    """The model with one layer's branches scaled."""
    with torch.no_grad():
        for linear in (model.transformer.blocks[index].attention.output, model.transformer.blocks[index].ffn.down):
            linear.weight *= factor
    return model


@pytest.mark.parametrize("score", ["magnitude", "taylor", "influence"])
def test_a_layer_without_effect_goes_first_and_the_logits_stay(tiny_model, tiny_tokens, context, score):
    model = weakened(tiny_model(layers=4), 2, 0.0)
    outcome = PruneLayers(count=1, score=score, repair=False).run(model, context(model))
    assert outcome.notes.written() == {"removed_layers": [2], "of": 4}
    assert model.parameters() - outcome.model.parameters() == 4 * 32 * 32 + 3 * 32 * 40 + 2 * 32
    inputs = examples(model.shape, tiny_tokens.part("held_out", 4)).inputs
    torch.testing.assert_close(
        torch.from_numpy(outcome.model.score(inputs)), torch.from_numpy(model.score(inputs)), atol=1e-5, rtol=1e-5
    )


def test_magnitude_removes_the_smallest_updates(tiny_model, context):
    model = weakened(weakened(tiny_model(layers=4), 1, 0.05), 3, 0.02)
    assert PruneLayers(ratio=0.5, score="magnitude").run(model, context(model)).notes.removed_layers == (1, 3)


def test_removal_looks_again_after_each_removal(tiny_model, context):
    model, steps = tiny_model(layers=4, seed=5), []
    batch = examples(model.shape, context().calibration_tokens())
    kept = [0, 1, 2, 3]
    with torch.no_grad():
        for _ in range(2):
            losses = {
                index: float(
                    nll(keep_layers(model.transformer, [other for other in kept if other != index]), batch).mean()
                )
                for index in kept
            }
            kept.remove(min(losses, key=losses.get))
    wanted = [index for index in range(4) if index not in kept]
    run = context(model, report=lambda step, count, values: steps.append((step, count)))
    assert PruneLayers(count=2, score="removal", repair=False).run(model, run).notes.removed_layers == tuple(wanted)
    assert steps[-1] == (7, 7), "four scorings, then three"


@pytest.mark.parametrize("settings", [{}, {"count": 1, "ratio": 0.5}])
def test_exactly_one_of_count_and_ratio_is_given(settings):
    with pytest.raises(InputError, match=r"^prune-layers: count .*: give exactly one of them, above 0$"):
        PruneLayers(**settings)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"count": 2}, "prune-layers: the model has 2 layers; count 2 would leave none; use at most 1"),
        ({"ratio": 0.9}, "prune-layers: the model has 2 layers; ratio 0.9 would leave none; use at most 0.5"),
    ],
)
def test_leaving_no_layer_is_refused(tiny_model, context, settings, text):
    with pytest.raises(PassError) as caught:
        PruneLayers(**settings).run(tiny_model(), context())
    assert str(caught.value) == text


def test_a_quantized_model_is_refused(tiny_model, context):
    quantized = Quantize().run(tiny_model(), context()).model
    with pytest.raises(PassError, match="prune-layers: the model has 15 quantized layers"):
        PruneLayers(count=1).run(quantized, context())


def test_the_rehearsal_fits_a_two_layer_copy(tiny_model, context):
    lighter, ratio = PruneLayers(count=6, score="removal").rehearsal()
    assert ratio == 6
    assert lighter.run(tiny_model(layers=2), context()).notes.of == 2
    assert lighter.run(tiny_model(layers=1), context()).notes.removed_layers == ()


def test_what_layers_did_is_made_up_for_in_those_that_are_left(tiny_model, context):
    model = tiny_model(layers=4)
    run = context(model, calibration=24)
    first = PruneLayers(count=1).run(model, run)
    then = PruneLayers(count=1).run(first.model, run)
    for won in (first.notes.repair, then.notes.repair):
        assert won.stream_error_after < won.stream_error_before
    assert then.notes.of == 3, "its layers were found among the reference's four"
    assert PruneLayers(count=1, repair=False).run(model, run).notes.repair is None
