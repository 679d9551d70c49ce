"""What rounding one layer alone adds: as an independent computation says that quantizes it and runs the whole model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from compress.models.transformer.examples import examples
from compress.models.transformer.quantized import LinearQuantization, quantizations
from compress.passes import PassError
from compress.passes.quantize import Quantize
from compress.passes.shared.alone import Predictions, scored_pictures
from compress.passes.shared.format_names import name_of
from compress.passes.shared.layer_costs import LayerCosts
from compress.passes.shared.rounding import Ranges

INT4 = LinearQuantization("int4", group=16)
STATIC = LinearQuantization("int8", "int8", reduce_range="pairs")
UNITS = {
    ("blocks.0.ffn.down",): (INT4, STATIC, None),
    ("blocks.0.attention.query", "blocks.0.attention.key"): (INT4, None),
    ("blocks.1.attention.output",): (STATIC, INT4),
    ("head",): (LinearQuantization("int8"),),
}


def costs_of(model, context, remember=None):
    before = Predictions(model.transformer, context.tokens.part("validation"))
    settings = Quantize("int4", group=16)
    more = {} if remember is None else {"remember": remember}
    return LayerCosts(model.transformer, before, context, Ranges("mse", 99.9), settings.by_outputs, **more)


def kl_by_hand(model, quantized, tokens):
    batch = examples(model.shape, tokens)
    own, other = (log_softmax(each.score(batch.inputs).astype(np.float64), axis=-1) for each in (model, quantized))
    token = (np.exp(own) * (own - other)).sum(axis=-1)
    return np.array([row[asked].mean() for row, asked in zip(token, batch.scored, strict=True)])


@pytest.mark.parametrize("kind", [{}, {"order": "masked", "positions": "learned"}, {"modulation": "class"}], ids=str)
def test_the_kl_is_that_of_the_whole_model_with_that_layer_alone_quantized(tiny_model, tiny_tokens, context, kind):
    model, ours = tiny_model(**kind), context(calibration=8)
    units = dict(UNITS)
    if "modulation" in kind:
        units["blocks.1.modulation.linear",] = (INT4,)
    found = costs_of(model, ours).all(units)
    names = [*(name for name, _ in model.transformer.linears()), "head"]
    for unit, specs in units.items():
        for spec in specs:
            if spec is None:
                assert not found[unit]["float"].any()
                continue
            settings = Quantize(
                spec.weights, spec.activations, group=spec.group, head="same", down="same",
                keep=tuple(name for name in names if name not in unit),
            )  # fmt: skip
            made = settings.run(model, ours).model
            assert list(quantizations(made.transformer)) == list(unit)
            wanted = kl_by_hand(model, made, ours.tokens.part("validation"))
            assert wanted.mean() > 1e-7
            np.testing.assert_allclose(found[unit][name_of(spec)], wanted, rtol=1e-3, atol=1e-9)


def test_the_model_is_left_as_it_was(tiny_model, context):
    model = tiny_model()
    before = {name: value.clone() for name, value in model.transformer.state_dict().items()}
    costs = costs_of(model, context())
    costs.all(UNITS)
    assert not quantizations(costs.transformer)
    after = model.transformer.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_what_is_remembered_is_not_measured_again(tiny_model, context):
    model, ours = tiny_model(), context()
    known, measured = {}, []

    def remember(unit, measure):
        if unit not in known:
            measured.append(unit)
            known[unit] = measure()
        return known[unit]

    whole = costs_of(model, ours, remember).all(UNITS)
    assert measured == sorted(UNITS, key=lambda unit: (unit == ("head",), unit[0].split(".")[1:2]))
    del known["blocks.1.attention.output",]
    measured.clear()
    again = costs_of(model, ours, remember).all(UNITS)
    assert measured == [("blocks.1.attention.output",)]
    for unit, formats in whole.items():
        for name, kl in formats.items():
            np.testing.assert_array_equal(again[unit][name], kl)


def test_activations_that_are_not_finite_are_refused(tiny_model, context):
    model = tiny_model()
    model.transformer.blocks[0].attention.value.weight.data[0, 0] = torch.inf
    with pytest.raises(PassError, match=r"blocks\.0\.attention\.output: activations hold NaN or Inf"):
        costs_of(model, context()).all({("blocks.0.attention.output",): (INT4,)})


def test_pictures_are_validation_ones_else_training_ones_and_never_held_out(tiny_tokens):
    found = scored_pictures(tiny_tokens, 10 * 64)
    assert len(found) == min(10, len(tiny_tokens.part("validation")))
    assert (found.parts == 1).all()
    without = tiny_tokens.take(np.flatnonzero(tiny_tokens.parts != 1))
    assert (scored_pictures(without, 3 * 64).parts == 0).all()
    assert len(scored_pictures(without, 1)) == 2, "an interval needs two"
    with pytest.raises(ValueError, match=r"^layers are judged by at least 2 validation or training pictures"):
        scored_pictures(tiny_tokens.part("held_out"), 64)
