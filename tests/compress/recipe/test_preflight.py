"""The preflight: every pass is driven once, and its failures name the step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calibration.tokens import digits
from compress.core.listener import Silent
from compress.core.memory import watched
from compress.core.settings import InputError
from compress.core.store import Store
from compress.models.image_model import ImageModel
from compress.passes.distill import Distill
from compress.passes.export import Export
from compress.passes.prune_heads import PruneHeads
from compress.recipe import plan, preflight, recipe
from compress.running import pipeline


def rehearse(path, model: ImageModel) -> preflight.RunCost:
    made = recipe.load(path)
    tokens = plan.load_tokens(made)
    return preflight.rehearse(made, plan.make_plan(made, tokens), model, tokens, Silent())


def test_the_whole_chain_is_driven_and_the_cost_estimated(finished, tiny_model, monkeypatch) -> None:
    ran: list[str] = []
    for cls in (PruneHeads, Export):
        real = cls.run
        monkeypatch.setattr(
            cls, "run", lambda self, *args, real=real: (ran.append(type(self).__name__), real(self, *args))[1]
        )
    estimate = rehearse(finished.recipe, tiny_model(layers=4))
    assert ran == ["PruneHeads", "Export", "PruneHeads"], "passes in PyTorch run on a copy of one layer too"
    assert estimate.seconds > 0
    assert estimate.words().startswith("preflight: the whole chain works on a 2-layer copy (")


def test_a_pass_that_fails_is_named(finished, tiny_model) -> None:
    path = finished.changed(("ratio: 0.25", "ratio: 0.9"))
    with pytest.raises(InputError, match=r"^preflight: prune-heads: prune-heads: layer 0 has 4 heads; ratio 0.9"):
        rehearse(path, tiny_model())


def test_a_pass_that_cannot_begin_is_refused_before_anything_is_rehearsed_or_made(finished, monkeypatch) -> None:
    # Two layers are all that the model has, and all that the rehearsal has: that would remove one of them.
    path = finished.changed(("prune-heads: {ratio: 0.25, score: magnitude}", "prune-layers: {count: 2}"))
    monkeypatch.setattr(pipeline, "rehearse", lambda *arguments: pytest.fail("rehearsed"))
    with pytest.raises(InputError) as caught:
        pipeline.run(recipe.load(path), Store(finished.store), finished.output, Silent())
    assert str(caught.value) == (
        f"{path}: prune-layers: prune-layers: the model has 2 layers; count 2 would leave none; use at most 1"
    )


def test_an_engine_that_draws_nonsense_is_named(finished, tiny_model, monkeypatch) -> None:
    monkeypatch.setattr(
        "export.runtime.engine.Engine.score", lambda self, inputs, features: np.full((len(inputs), 64, 17), np.nan)
    )
    text = finished.recipe.read_text()
    finished.recipe.write_text(text[: text.index("passes:")] + text[text.index("engines:") :])
    with pytest.raises(InputError, match=r"^preflight: cpu\.export: the engine's logits hold NaN or Inf"):
        rehearse(finished.recipe, tiny_model())


def test_the_copy_has_the_first_two_layers(tiny_model) -> None:
    model = tiny_model(layers=3)
    copy = preflight.first_layers(model, 2)
    assert len(copy.transformer.config.layers) == 2
    own, theirs = copy.transformer.state_dict(), model.transformer.state_dict()
    assert all((own[name] == theirs[name]).all() for name in own)
    assert preflight.first_layers(copy, 2) is copy


def test_few_pictures_of_each_part_are_enough() -> None:
    few = preflight.pick_few(digits())
    assert [len(few.part(part)) for part in ("train", "validation", "held_out")] == [32, 32, 32]


def test_memory_of_more_layers_is_foreseen_from_copies_of_one_and_two() -> None:
    needs = preflight.Needs(rises={2: {"distill": 110.0, "quantize": 90.0}, 1: {"distill": 70.0}}, sessions={})
    assert needs.rise(2) == 110
    assert needs.rise(8) == 110 + 6 * 40
    assert preflight.Needs(rises={2: {}}, sessions={}).rise(8) == 0


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_models_of_few_layers_are_rehearsed_too(finished, tiny_model, layers: int) -> None:
    assert rehearse(finished.recipe, tiny_model(layers=layers)).memory_mib > 0
    assert preflight.Needs(rises={layers: {"distill": 110.0}}, sessions={}).rise(layers) == 110


@pytest.mark.slow
def test_a_run_takes_the_memory_that_was_foreseen(finished, tiny_model) -> None:
    made = recipe.load(finished.recipe)
    tokens = plan.load_tokens(made)
    model = pipeline.load_reference(made, tokens)
    estimate = preflight.rehearse(made, plan.make_plan(made, tokens), model, tokens, Silent())
    with watched() as growth:
        pipeline.run(made, Store(finished.store / "new"), finished.output, Silent(), preflight=False)
    assert growth.peak / 1.5 < estimate.memory_mib < 1.5 * growth.peak


def test_what_a_teacher_remembers_is_counted(tiny_model) -> None:
    model, tokens = tiny_model(layers=4), digits()
    pictures = len(tokens.part("train"))
    few, many = (Distill(steps=steps, batch=2, null_share=0.0, hidden=0.0) for steps in (1, 10 * pictures))
    shape, validation = model.shape, len(tokens.part("validation"))
    a_picture = 4 * shape.predicted * shape.length
    assert few.keeps(model, tokens, 128) == (2 + validation) * a_picture
    assert many.keeps(model, tokens, 128) == (pictures + validation) * a_picture
    assert (
        replace(many, hidden=1.0).keeps(model, tokens, 128) - many.keeps(model, tokens, 128)
        == pictures * shape.length * 2 * 32 * 4
    )
