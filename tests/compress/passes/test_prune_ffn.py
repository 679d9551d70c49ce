"""prune-ffn: the right units go, and the parameters that are left are counted by hand."""

from __future__ import annotations

import pytest
import torch

from compress.models.transformer.examples import examples
from compress.passes import PassError
from compress.passes.prune_ffn import PruneFfn
from compress.passes.quantize import Quantize
from compress.passes.shared import repair


@pytest.mark.parametrize("score", ["taylor", "magnitude"])
def test_a_unit_takes_its_gate_up_and_down_weights_with_it(tiny_model, context, score):
    model = tiny_model()
    outcome = PruneFfn(ratio=0.3, score=score, multiple=8, repair=False).run(
        model, context(model)
    )  # 28 of 40 would stay; 32 do
    assert model.parameters() - outcome.model.parameters() == 2 * 8 * 3 * 32
    assert outcome.notes.written() == {"removed": 16, "of": 80, "kept_per_layer": [32, 32]}
    assert outcome.model.transformer.blocks[1].ffn.down.weight.shape == (32, 32)


def test_biases_go_with_their_units_but_not_the_outputs(tiny_model, context):
    model = tiny_model(norm="layernorm", activation="gelu-tanh", positions="learned", bias=True)
    outcome = PruneFfn(ratio=0.25, multiple=1).run(model, context(model))
    assert model.parameters() - outcome.model.parameters() == 2 * 10 * (32 + 1 + 32)


def test_taylor_removes_dead_units_first_and_the_logits_stay(any_model, any_tokens, context):
    with torch.no_grad():
        for index in range(2):
            any_model.transformer.blocks[index].ffn.down.weight[:, index::4] = 0
    outcome = PruneFfn(ratio=0.25, multiple=1).run(any_model, context(any_model, tokens=any_tokens))
    assert outcome.notes.kept_per_layer == (30, 30)
    batch = examples(any_model.shape, any_tokens.part("held_out", 4))
    given = (batch.inputs, batch.features)
    torch.testing.assert_close(
        torch.from_numpy(outcome.model.score(*given)), torch.from_numpy(any_model.score(*given)), atol=1e-5, rtol=1e-5
    )


def test_global_scope_takes_units_where_they_matter_least(tiny_model, context):
    model = tiny_model()
    with torch.no_grad():
        for name in ("gate", "up", "down"):
            getattr(model.transformer.blocks[0].ffn, name).weight *= 0.01
    outcome = PruneFfn(ratio=0.2, score="magnitude", scope="global", multiple=8).run(model, context(model))
    assert outcome.notes.kept_per_layer == (24, 40)  # 16 of 80 go, all of the first


def test_fewer_units_than_one_multiple_stay(tiny_model, context):
    assert PruneFfn(ratio=0.5).run(tiny_model(ffn=24), context()).notes.kept_per_layer == (24, 24)


@pytest.mark.parametrize(
    ("scope", "text"),
    [
        ("layer", "prune-ffn: layer 0 has 40 units; ratio 1 would leave none; use at most 0.97"),
        ("global", "prune-ffn: 2 layers have 80 units in all; ratio 1 would leave a layer none; use at most 0.97"),
    ],
)
def test_leaving_no_unit_is_refused(tiny_model, context, scope, text):
    with pytest.raises(PassError) as caught:
        PruneFfn(ratio=1.0, scope=scope).run(tiny_model(), context())
    assert str(caught.value) == text


def test_a_quantized_model_is_refused(tiny_model, context):
    quantized = Quantize().run(tiny_model(), context()).model
    with pytest.raises(PassError, match="prune-ffn: the model has 15 quantized layers; put prune-ffn before quantize"):
        PruneFfn(ratio=0.5).run(quantized, context())


def test_what_units_did_is_made_up_for(any_model, any_tokens, context):
    run = context(any_model, tokens=any_tokens, calibration=96)
    plain, repaired = (PruneFfn(ratio=0.25, multiple=1, repair=asked).run(any_model, run) for asked in (False, True))
    assert plain.notes.repair is None
    won = repaired.notes.repair
    if any_model.transformer.config.uvit:  # its random units say nothing of each other
        assert won.stream_error_after <= won.stream_error_before
    else:
        assert won.stream_error_after < won.stream_error_before
    assert won.stream_error_before == round(stream_error(plain, any_model, any_tokens), 5)
    assert won.stream_error_after == round(stream_error(repaired, any_model, any_tokens), 5)


def stream_error(outcome, reference, tokens):
    """Relative error of the last stream on the validation pictures."""
    return repair.stream_error(outcome.model.transformer, reference.transformer, tokens.part("validation"))
