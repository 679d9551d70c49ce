"""What measures are given: scores and pictures are made once, and logits must be numbers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from compress.core.settings import InputError
from compress.measure.subject import Given, GuidedSide, Side, Subject, beside
from compress.models.guided import Guided
from compress.models.transformer.examples import examples
from export.runtime.sampling import Sampler


@pytest.fixture
def given(tiny_model, tiny_tokens) -> Given:
    model = tiny_model()
    batch = examples(model.shape, tiny_tokens.part("held_out", 4))
    return Given(model.shape, model.picture, batch, seed=3, samples=12)


def test_pictures_are_those_of_the_seed_and_are_drawn_once(given, tiny_model, monkeypatch) -> None:
    side = Side("tiny", given, tiny_model())
    labels, _ = given.conditions(12)
    drawn = side.drawn()
    assert np.array_equal(drawn, tiny_model().draw_tokens(labels, 3))
    assert not np.array_equal(drawn, side.drawn(1))
    monkeypatch.setattr(type(side.model), "draw_tokens", lambda *args, **kwargs: pytest.fail("drawn again"))
    assert np.array_equal(side.drawn(), drawn)


def test_a_model_in_pytorch_is_no_engine(given, tiny_model) -> None:
    side = Side("tiny", given, tiny_model())
    assert (side.engine, side.folder, side.kept_layers) == (None, None, None)
    assert Subject(side, side).keys == ("", "")


def test_logits_that_are_no_numbers_are_refused(given) -> None:
    broken = SimpleNamespace(score=lambda inputs, features: np.full((4, 64, 17), np.nan, dtype=np.float32))
    with pytest.raises(InputError) as caught:
        _ = Side("runs/engines/cpu", given, broken).scores
    assert str(caught.value) == "runs/engines/cpu: its logits hold NaN or Inf, so it cannot be judged"


def test_what_measures_share_is_made_once(given) -> None:
    assert given.once("classifier", lambda: [1]) is given.once("classifier", lambda: pytest.fail("made again"))


def test_beside_a_model_with_guidance_inside_the_reference_is_guided_once(given, tiny_model) -> None:
    reference, candidate = Side("reference", given, tiny_model()), Side("tiny", given, tiny_model())
    inside = Sampler(cfg_scale=2.0, guidance_inside=True)
    subject = beside(candidate, reference, inside)
    assert isinstance(subject.reference, GuidedSide)
    assert np.array_equal(subject.reference.scores, Guided(reference.model, inside).score(given.examples.inputs))
    assert np.array_equal(
        subject.reference.drawn(), tiny_model().draw_tokens(given.conditions(12)[0], 3, Sampler(cfg_scale=2.0))
    )
    assert beside(candidate, reference, inside).reference is subject.reference
    assert beside(candidate, reference, Sampler(cfg_scale=2.0)).reference is reference
    assert beside(candidate, Side("both", given, tiny_model(sampler=inside)), inside).reference.name == "both"
    reference.forget()
    assert "scores" not in vars(subject.reference)
