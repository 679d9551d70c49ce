"""distill: nearer to the reference on pictures that no gradient sees, resumable, and through quantization."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ranks import on_ranks
from torch.distributions import Categorical, kl_divergence

from compress.core.settings import InputError
from compress.models.transformer.examples import examples
from compress.models.transformer.quantized import quantizations
from compress.passes import PassError
from compress.passes.distill import CHECKPOINT, Distance, Distill
from compress.passes.prune_ffn import PruneFfn
from compress.passes.prune_layers import PruneLayers
from compress.passes.quantize import Quantize
from compress.training.world import ALONE
from export.runtime.sampling import Sampler


def divergence(reference, model, pictures):
    """KL(reference || model) by PyTorch's own, nats per token."""
    inputs = torch.from_numpy(examples(reference.shape, pictures).inputs)
    with torch.no_grad():
        theirs, own = (Categorical(logits=each.transformer(inputs)) for each in (reference, model))
        return float(kl_divergence(theirs, own).mean())


@pytest.fixture
def reference(tiny_model):
    return tiny_model()


@pytest.fixture
def pruned(reference, context):
    return PruneFfn(ratio=0.5, multiple=1).run(reference, context(reference)).model


QUICK = {"steps": 30, "batch": 16, "learning_rate": 2e-3, "warmup": 5, "validate_every": 10}


def test_the_taught_model_is_nearer_to_the_reference_on_validation_pictures(reference, pruned, context, tiny_tokens):
    outcome = Distill(**QUICK).run(pruned, context(reference))
    before, after = (divergence(reference, model, tiny_tokens.part("validation")) for model in (pruned, outcome.model))
    assert after < 0.6 * before
    assert outcome.notes.written() == {
        "steps": 30,
        "validation_kl_before": pytest.approx(before, abs=2e-5),
        "validation_kl_after": pytest.approx(after, abs=2e-5),
        "compared_layers": [[1, 1], [2, 2]],
    }
    assert outcome.model.transformer.config == pruned.transformer.config
    assert not outcome.model.transformer.training
    # the held-out pictures, which neither trained nor stopped it, agree
    assert divergence(reference, outcome.model, tiny_tokens.part("held_out")) < 0.75 * divergence(
        reference, pruned, tiny_tokens.part("held_out")
    )


def test_the_input_and_the_reference_are_left_as_they_were(reference, pruned, context):
    states = [{k: v.clone() for k, v in model.transformer.state_dict().items()} for model in (reference, pruned)]
    Distill(steps=3).run(pruned, context(reference))
    for model, state in zip((reference, pruned), states, strict=True):
        for name, value in model.transformer.state_dict().items():
            assert torch.equal(value, state[name])


@pytest.mark.parametrize("divergence_", ["reverse", "jensen-shannon"])
def test_every_divergence_brings_every_kind_of_model_nearer(any_model, any_tokens, context, divergence_):
    ours = context(any_model, tokens=any_tokens)
    pruned = PruneFfn(ratio=0.4, multiple=1, score="magnitude", repair=False).run(any_model, ours).model
    settings = Distill(steps=6, batch=8, warmup=0, validate_every=3, divergence=divergence_)
    notes = settings.run(pruned, ours).notes
    assert notes.validation_kl_after < notes.validation_kl_before


def test_a_shallower_model_is_taught_at_equal_depth(tiny_model, context):
    reference = tiny_model(layers=4)
    shallow = PruneLayers(count=2).run(reference, context(reference)).model
    outcome = Distill(**QUICK).run(shallow, context(reference))
    assert outcome.notes.compared_layers == ((1, 2), (2, 4))
    assert outcome.notes.validation_kl_after < outcome.notes.validation_kl_before


def test_hidden_states_can_be_left_out(reference, pruned, context):
    outcome = Distill(**QUICK, hidden=0.0).run(pruned, context(reference))
    assert outcome.notes.compared_layers == ()
    assert outcome.notes.validation_kl_after < outcome.notes.validation_kl_before


def test_hidden_states_come_nearer_when_they_count(reference, pruned, context, tiny_tokens, tmp_path):
    inputs = torch.from_numpy(examples(reference.shape, tiny_tokens.part("held_out")).inputs)

    def gap(model):
        with torch.no_grad():
            theirs, own = (
                list(each.transformer.layer_outputs(*each.transformer.prepare(inputs)))[-1]
                for each in (reference, model)
            )
        return float((own - theirs).square().mean())

    gaps = {}
    for weight in (0.0, 10.0):
        workspace = tmp_path / str(weight)
        workspace.mkdir()
        settings = Distill(**QUICK, hidden=weight)
        gaps[weight] = gap(settings.run(pruned, context(reference, workspace=workspace)).model)
    assert gaps[10.0] < gaps[0.0]
    assert gaps[10.0] < gap(pruned)


def test_a_perfect_model_is_handed_back_and_teaching_stops_early(reference, context):
    outcome = Distill(steps=200, learning_rate=1e-2, warmup=0, validate_every=1, patience=3).run(
        reference, context(reference)
    )
    assert outcome.model is reference
    assert outcome.notes.kept == "the input; teaching did not bring it nearer"
    assert outcome.notes.validation_kl_before == pytest.approx(0.0, abs=1e-5)
    assert outcome.notes.steps < 200


def test_it_stops_when_the_validation_pictures_say_so_and_keeps_the_best(reference, pruned, context, monkeypatch):
    values = iter([9.0, 5.0, 4.0, 6.0, 7.0])  # before, then at steps 2, 4, 6 and 8
    weights = []

    def distance(self, model):
        weights.append(model.norm.weight.detach().clone())
        return next(values, 4.0)

    monkeypatch.setattr(Distance, "__call__", distance)
    settings = Distill(steps=100, warmup=0, validate_every=2, patience=2)
    outcome = settings.run(pruned, context(reference))
    assert outcome.notes.steps == 8
    assert torch.equal(outcome.model.transformer.norm.weight, weights[2]), "those of step 4"


class Stopped:
    """A report that interrupts after so many training steps."""

    def __init__(self, step):
        self.step = step

    def __call__(self, step, steps, values):
        if "loss" in values and step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("formats", [None, {"weights": "fp8", "activations": "fp8"}, {"weights": "int4", "group": 16}])
def test_a_distillation_that_was_interrupted_ends_with_the_same_weights(reference, pruned, context, tmp_path, formats):
    model = Quantize(**formats).run(pruned, context(reference)).model if formats else pruned
    settings = Distill(steps=12, batch=8, warmup=2, validate_every=5)
    ours, whole = context(reference, workspace=tmp_path), context(reference)
    once = settings.run(model, whole)
    with pytest.raises(KeyboardInterrupt):
        settings.run(model, context(reference, workspace=tmp_path, report=Stopped(7)))
    assert (tmp_path / CHECKPOINT).exists()
    again = settings.run(model, ours)
    assert again.notes == once.notes
    state = again.model.transformer.state_dict()
    for name, value in once.model.transformer.state_dict().items():
        assert torch.equal(value.float(), state[name].float()), name


def test_an_interrupted_distillation_goes_on_with_the_same_pictures_of_its_own(reference, pruned, context, tmp_path):
    settings = Distill(steps=6, batch=4, warmup=2, validate_every=3, on_policy=0.5, redraw=4)
    once = settings.run(pruned, context(reference))
    with pytest.raises(KeyboardInterrupt):  # after steps 0 to 2, between two drawings
        settings.run(pruned, context(reference, workspace=tmp_path, report=Stopped(3)))
    again = settings.run(pruned, context(reference, workspace=tmp_path))
    assert again.notes == once.notes
    state = again.model.transformer.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in once.model.transformer.state_dict().items())
    without = Distill(steps=6, batch=4, warmup=2, validate_every=3)
    other = without.run(pruned, context(reference, workspace=fresh(tmp_path)))
    assert other.notes.validation_kl_after != once.notes.validation_kl_after


def fresh(folder):
    """An empty folder inside another."""
    (folder / "fresh").mkdir()
    return folder / "fresh"


def test_the_seed_decides_the_result(reference, pruned, context, tmp_path):
    def taught(seed, folder):
        (tmp_path / folder).mkdir()
        settings = Distill(steps=4, warmup=0)
        return settings.run(pruned, context(reference, seed=seed, workspace=tmp_path / folder)).notes

    assert taught(1, "a") == taught(1, "b") != taught(2, "c")


@pytest.mark.parametrize(
    "formats",
    [
        {"weights": "int4"},
        {"weights": "int8", "activations": "int8"},
        {"weights": "int4", "activations": "int8", "dynamic": True, "group": 16},
        {"weights": "fp8", "activations": "fp8"},
    ],
    ids=lambda formats: "-".join(map(str, formats.values())),
)
@pytest.mark.parametrize("scales", ["learned", "fixed"])
def test_a_quantized_model_is_taught_on_its_grid(reference, pruned, context, tiny_tokens, formats, scales):
    model = Quantize(**formats).run(pruned, context(reference)).model
    outcome = Distill(**QUICK, scales=scales).run(model, context(reference))
    taught, pictures = outcome.model, tiny_tokens.part("validation")
    assert quantizations(taught.transformer) == quantizations(model.transformer)
    layer, old = (each.transformer.blocks[0].ffn.up for each in (taught, model))
    assert layer.weight.dtype == old.weight.dtype
    assert torch.equal(layer.weight_scale, old.weight_scale) == (scales == "fixed")
    assert not torch.equal(layer.weight.float(), old.weight.float())
    assert divergence(reference, taught, pictures) < 0.7 * divergence(reference, model, pictures)
    # what was validated while training is what the rounded model does
    assert outcome.notes.validation_kl_after == pytest.approx(divergence(reference, taught, pictures), abs=2e-5)


def test_the_distance_weighs_pictures_not_batches(reference, pruned, tiny_tokens, monkeypatch):
    monkeypatch.setattr("compress.passes.distill.BATCH", 6)  # 16 pictures: 6, 6 and 4
    pictures = tiny_tokens.part("validation")
    found = Distance(reference.transformer, pictures)(pruned.transformer)
    assert found == pytest.approx(divergence(reference, pruned, pictures), rel=1e-4)


@pytest.mark.parametrize("part", ["train", "validation"])
def test_tokens_without_a_part_it_needs_are_refused(reference, context, tiny_tokens, part):
    index = ("train", "validation", "held_out").index(part)
    without = tiny_tokens.take(np.flatnonzero(tiny_tokens.parts != index))
    with pytest.raises(PassError) as caught:
        Distill(steps=1).run(reference, context(reference, tokens=without))
    assert str(caught.value) == f"distill: the tokens have no {part} pictures; split them with a share for {part}"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"vocabulary": 16}, "distill: the reference has vocabulary 16, the model 17; they must be equal"),
        ({"classes": 3}, "distill: the reference has classes 3, the model 10; they must be equal"),
        ({"grid": (4, 16)}, "distill: the reference has grid (4, 16), the model (8, 8); they must be equal"),
    ],
)
def test_a_reference_of_another_task_is_refused(tiny_model, context, changes, text):
    with pytest.raises(PassError) as caught:
        Distill(steps=1).run(tiny_model(), context(tiny_model(**changes)))
    assert str(caught.value) == text


def test_a_reference_of_another_width_teaches_by_its_logits_alone(tiny_model, context):
    notes = Distill(steps=2, warmup=0, validate_every=1).run(tiny_model(), context(tiny_model(width=64, seed=1))).notes
    assert notes.compared_layers == ()
    assert notes.validation_kl_after < notes.validation_kl_before


def test_training_that_diverges_is_refused_with_advice(reference, pruned, context, monkeypatch):
    def diverging(student, *arguments, **settings):
        with torch.no_grad():
            student.norm.weight.fill_(float("nan"))
        return [{"step": 3}]

    monkeypatch.setattr("compress.passes.distill.fit", diverging)
    with pytest.raises(PassError) as caught:
        Distill(steps=3, learning_rate=0.5).run(pruned, context(reference))
    assert str(caught.value) == "distill: training diverged (KL nan); use a learning_rate below 0.5"


def test_the_rehearsal_takes_two_steps():
    lighter, ratio = Distill(steps=300).rehearsal()
    assert (lighter.steps, ratio) == (2, 150)
    assert Distill(steps=1).rehearsal() == (Distill(steps=1), 1.0)


def test_more_parts_than_pictures_are_refused():
    with pytest.raises(InputError) as caught:
        Distill(steps=1, batch=4, accumulate=5)
    assert str(caught.value) == ("distill: accumulate 5: a batch of 4 has no more parts than pictures; use at most 4")


def test_bfloat16_is_refused_where_the_processor_has_no_instructions_for_it(reference, monkeypatch):
    settings = Distill(steps=1, precision="bfloat16")
    for flags in ({"avx512_bf16"}, {"amx_bf16"}, {"bf16", "asimddp"}):
        monkeypatch.setattr("compress.passes.distill.processor", lambda flags=flags: ("any", frozenset(flags)))
        settings.requires(reference)
    monkeypatch.setattr("compress.passes.distill.processor", lambda: ("old", frozenset({"avx2", "avx512f"})))
    with pytest.raises(PassError) as caught:
        settings.requires(reference)
    assert str(caught.value) == (
        "precision bfloat16: this processor has none of avx512_bf16, amx_bf16, bf16, so float32 is faster; use "
        "precision float32"
    )
    Distill(steps=1).requires(reference)


def test_a_model_is_taught_in_bfloat16_and_in_parts(reference, pruned, context, monkeypatch):
    monkeypatch.setattr("compress.passes.distill.processor", lambda: ("any", frozenset({"avx512_bf16"})))
    notes = Distill(**QUICK, precision="bfloat16", accumulate=4).run(pruned, context(reference)).notes
    assert notes.validation_kl_after < 0.6 * notes.validation_kl_before


ABSORB = {"steps": 30, "batch": 16, "learning_rate": 2e-3, "warmup": 5, "validate_every": 10, "guidance": "absorb"}


def guided_distance(reference, model, pictures, scale):
    """KL(guided reference || model) by PyTorch's own, nats per token."""
    batch = examples(reference.shape, pictures)
    given, null = (
        torch.from_numpy(reference.score(each.inputs, each.features))
        for each in (batch, batch.unconditional(reference.shape))
    )
    wanted = Categorical(logits=null + scale * (given - null))
    own = Categorical(logits=torch.from_numpy(model.score(batch.inputs, batch.features)))
    return float(kl_divergence(wanted, own)[torch.from_numpy(batch.scored)].mean())


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_a_model_learns_the_guided_distribution_and_says_so(tiny_model, context, tiny_tokens, scale):
    reference = tiny_model(sampler=Sampler(cfg_scale=2.0, temperature=0.9))
    outcome = Distill(**ABSORB, guidance_scale=scale).run(reference, context(reference))
    inside, pictures = scale or 2.0, tiny_tokens.part("validation")
    assert outcome.model.sampler == Sampler(cfg_scale=inside, temperature=0.9, guidance_inside=True)
    assert outcome.notes.guidance == inside
    assert outcome.notes.compared_layers == ()
    before, after = (guided_distance(reference, each, pictures, inside) for each in (reference, outcome.model))
    assert outcome.notes.validation_kl_before == pytest.approx(before, abs=2e-5)
    assert outcome.notes.validation_kl_after == pytest.approx(after, abs=2e-5)
    assert after < 0.75 * before


def test_every_kind_of_model_learns_guidance(any_model, any_tokens, context):
    reference = replace(any_model, sampler=Sampler(cfg_scale=2.0, steps=3))
    settings = Distill(steps=24, batch=8, warmup=0, learning_rate=1e-4, validate_every=8, guidance="absorb")
    outcome = settings.run(reference, context(reference, tokens=any_tokens))
    assert outcome.notes.validation_kl_after < outcome.notes.validation_kl_before
    assert outcome.model.sampler.guidance_inside


def test_a_model_with_guidance_inside_is_taught_by_the_guided_reference(tiny_model, context, tiny_tokens, tmp_path):
    reference = tiny_model(sampler=Sampler(cfg_scale=2.0))
    inside = replace(reference, sampler=reference.sampler.with_guidance_inside())
    outcome = Distill(**{**ABSORB, "guidance": "outside"}).run(inside, context(reference))
    before = guided_distance(reference, reference, tiny_tokens.part("validation"), 2.0)
    assert outcome.notes.validation_kl_before == pytest.approx(before, abs=2e-5)
    assert outcome.notes.validation_kl_after < before
    assert outcome.model.sampler == inside.sampler
    assert outcome.notes.guidance is None


def test_where_teaching_fails_guidance_stays_outside(tiny_model, context):
    reference = tiny_model(sampler=Sampler(cfg_scale=2.0))
    outcome = Distill(steps=1, learning_rate=0.0, warmup=0, guidance="absorb").run(reference, context(reference))
    assert outcome.model is reference
    assert outcome.notes.guidance is None
    assert outcome.notes.kept == "the input; teaching did not bring it nearer"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"guidance_scale": 2.0},
            "distill: guidance_scale 2 with guidance outside: only a guidance that is learned has a scale here; use "
            "guidance: absorb",
        ),
        (
            {"guidance": "absorb", "guidance_scale": 1.0},
            "distill: guidance_scale 1: that is no guidance; use another scale, or 0 for the model's own",
        ),
    ],
)
def test_a_scale_that_nothing_learns_is_refused(settings, text):
    with pytest.raises(InputError) as caught:
        Distill(steps=1, **settings)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"sampler": Sampler(cfg_scale=1.0)},
            "distill: guidance: absorb, but the model is sampled without guidance (cfg_scale 1); say a guidance_scale",
        ),
        (
            {"sampler": Sampler(cfg_scale=2.0, guidance_inside=True)},
            "distill: guidance: absorb, but guidance 2 is inside the model already; use guidance: outside, which keeps "
            "it",
        ),
        (
            {"classes": 0},
            "distill: guidance: absorb, but the model has no classes to be guided by; use guidance: outside",
        ),
    ],
)
def test_guidance_that_cannot_be_learned_is_refused(tiny_model, context, changes, text):
    model = tiny_model(**changes)
    with pytest.raises(PassError) as caught:
        Distill(steps=1, guidance="absorb").run(model, context(model))
    assert str(caught.value) == text


# Processes

SHARED = {
    "causal": {},
    "masked": {"order": "masked", "positions": "learned"},
}


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize(
    "settings",
    [{"accumulate": 3}, {"on_policy": 0.25, "redraw": 4}, {"precision": "bfloat16", "hidden": 0.5}],
    ids=["accumulate", "on-policy", "bfloat16"],
)
def test_two_processes_teach_what_one_does(tiny_model, context, tmp_path, monkeypatch, kind, settings):
    monkeypatch.setattr("compress.passes.distill.processor", lambda: ("any", frozenset({"avx512_bf16"})))
    reference = tiny_model(**SHARED[kind])
    pruned = PruneFfn(ratio=0.5, multiple=1, repair=False).run(reference, context(reference)).model
    distill = Distill(steps=8, batch=12, warmup=2, learning_rate=2e-3, validate_every=4, **settings)
    distill.check_processes(2)

    def taught(world=ALONE):
        workspace, losses = tmp_path / f"{world.rank}-of-{world.size}", []
        workspace.mkdir()
        report = lambda step, steps, values: losses.append(values.get("loss", 0))  # noqa: E731
        outcome = distill.run(pruned, context(reference, world=world, workspace=workspace, report=report))
        return outcome, losses

    alone, losses = taught()
    rounding = 2e-3 if "precision" in settings else 1e-4
    (first, own_losses), (second, none) = on_ranks(taught, tmp_path)
    assert own_losses[-8:] == pytest.approx(losses[-8:], rel=10 * rounding)
    assert not any(none)
    for outcome in (first, second):
        notes, state = outcome.notes, outcome.model.transformer.state_dict()
        assert notes.validation_kl_after == pytest.approx(alone.notes.validation_kl_after, rel=10 * rounding)
        assert notes.validation_kl_before == alone.notes.validation_kl_before > notes.validation_kl_after
        for name, weight in alone.model.transformer.state_dict().items():
            torch.testing.assert_close(state[name], weight, rtol=0, atol=rounding)


def test_two_processes_teach_a_quantized_model_and_its_scales_as_one_does(tiny_model, context, tmp_path):
    reference = tiny_model()
    quantized = Quantize(weights="int8", activations="int8").run(reference, context(reference)).model
    distill = Distill(steps=6, batch=8, warmup=2, validate_every=3, scales="learned")
    alone = distill.run(quantized, context(reference))

    def taught(world):
        outcome = distill.run(quantized, context(reference, world=world, workspace=tmp_path / "one-of-two"))
        return outcome.notes.validation_kl_after

    (tmp_path / "one-of-two").mkdir()
    for after in on_ranks(taught, tmp_path):
        assert after == pytest.approx(alone.notes.validation_kl_after, rel=1e-2)


def test_a_batch_that_processes_cannot_share_equally_is_refused():
    with pytest.raises(InputError, match=r"^batch: 30 cannot be shared equally by 4 processes; use a multiple of 4$"):
        Distill(steps=1, batch=30).check_processes(4)
