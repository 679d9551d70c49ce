"""smooth: exact for every kind of model, and int8 loses less behind it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compress.models.transformer.examples import examples
from compress.passes import PassError
from compress.passes.quantize import Quantize
from compress.passes.shared.folds import Fold, factors_of
from compress.passes.smooth import Smooth


@pytest.fixture
def ours(any_model, any_tokens, context):
    return context(any_model, tokens=any_tokens, calibration=4)


@pytest.mark.parametrize("alpha", [[0.5], [0.3, 0.8]], ids=str)
def test_every_kind_of_model_computes_the_same_behind_it(any_model, any_tokens, ours, alpha) -> None:
    before = {name: value.clone() for name, value in any_model.transformer.state_dict().items()}
    try:
        outcome = Smooth(tuple(alpha)).run(any_model, ours)
    except PassError as error:
        pytest.skip(str(error))
    batch = examples(any_model.shape, any_tokens.part("held_out", 3))
    exact, folded = (model.score(batch.inputs, batch.features) for model in (any_model, outcome.model))
    np.testing.assert_allclose(folded, exact, rtol=0, atol=2e-5 * np.abs(exact).max())
    after = outcome.model.transformer.state_dict()
    if len(alpha) == 1:
        assert any(not torch.equal(value, after[name]) for name, value in before.items())
    assert all(torch.equal(value, any_model.transformer.state_dict()[name]) for name, value in before.items())


def outliers(model):
    """The model with a few inputs of every kind of layer 64 times as large as the others, computing the same."""
    with torch.no_grad():
        for block in model.transformer.blocks:
            block.ffn.up.weight[3] *= 64
            block.ffn.down.weight[:, 3] /= 64
            block.attention_norm.weight[5] *= 64
            for name in ("query", "key", "value"):
                getattr(block.attention, name).weight[:, 5] /= 64
    return model


def test_outliers_no_longer_cost_all_others_their_codes(tiny_model, tiny_tokens, context) -> None:
    model = outliers(tiny_model())
    inputs = examples(model.shape, tiny_tokens.part("held_out", 8)).inputs
    settings = Quantize(activations="int8", head="float", down="same", ranges="absmax")
    errors = []
    for source in (model, Smooth().run(model, context()).model):
        scores = settings.run(source, context()).model.score(inputs)
        errors.append(float(np.square(scores - model.score(inputs)).mean()))
    assert errors[1] < 0.1 * errors[0]


def test_notes_say_which_exponent_each_layer_took(tiny_model, context) -> None:
    notes = Smooth().run(outliers(tiny_model()), context()).notes
    assert {"blocks.0.ffn.down", "blocks.0.attention.query"} <= set(notes.alphas)
    assert notes.of == 14
    assert notes.error_ratio_median < 1


def test_factors_are_those_of_the_paper() -> None:
    reach, weights = torch.tensor([16.0, 1.0, 0.0, 3.0]), torch.tensor([1.0, 4.0, 2.0, 0.0])
    assert factors_of(reach, weights, 0.5).tolist() == [4.0, 0.5, 1.0, 1.0]
    assert factors_of(reach, weights, 1.0).tolist() == [16.0, 1.0, 1.0, 1.0]


def test_heads_that_read_one_value_head_have_its_factors() -> None:
    fold = Fold(("attention.output",), lambda factors: None, alike=2, width=2)
    factors = torch.tensor([1.0, 8.0, 4.0, 2.0, 1.0, 1.0, 2.0, 1.0])
    assert fold.together(factors).tolist() == [4.0, 8.0, 4.0, 8.0, 2.0, 1.0, 2.0, 1.0]


def test_a_quantized_model_is_refused(tiny_model, context) -> None:
    quantized = Quantize().run(tiny_model(), context()).model
    with pytest.raises(PassError) as caught:
        Smooth().run(quantized, context())
    assert str(caught.value) == "smooth: the model has 15 quantized layers; put smooth before quantize"
