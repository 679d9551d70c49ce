"""What `verify` compares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.tokens import TokenSet
from compress import api
from compress.core.settings import InputError
from compress.models.families import reference
from compress.models.guided import Guided
from compress.recipe.gates import gate
from compress.verifying.comparison import classes_in_turn, compare


def test_a_model_does_not_drift_from_itself(checkpoint: Path) -> None:
    result = compare(str(checkpoint), str(checkpoint), gate(kl=0, agreement=1), "digits", 4, threads=1)
    assert result.verdict.passed
    assert result.fidelity.kl == 0
    assert result.fidelity.agreement == 1
    assert result.cached_loop.max_abs_difference < 1e-4
    assert result.sampled.flip_rate == 0
    assert result.evidence.sound


def test_a_model_with_guidance_inside_is_held_against_the_guided_reference(tiny_model) -> None:
    model = tiny_model()
    perfect = Guided(model, model.sampler)
    result = compare(model, perfect, gate(kl=0, agreement=1), "digits", 4, threads=1, samples=3)
    assert result.verdict.passed
    assert result.fidelity.kl == 0
    assert (result.sampled.guidance, result.sampled.flip_rate) == (1.5, 0)
    unlearned = replace(model, sampler=model.sampler.with_guidance_inside())
    assert not compare(model, unlearned, gate(kl=0.001), "digits", 4, threads=1, samples=3).verdict.passed


def test_an_engine_that_drifts_breaks_its_gate_by_name(shared_run, checkpoint: Path) -> None:
    engine = str(shared_run.output / "engines" / "cpu")
    result = compare(str(checkpoint), engine, gate(kl=0), "digits", None, threads=1)
    assert result.fidelity.pictures == 297
    (breach,) = result.verdict.breaches
    assert (breach.step, breach.measurement) == (engine, "kl")


def test_what_takes_long_is_measured_where_a_gate_limits_it(shared_run, checkpoint: Path) -> None:
    engine = str(shared_run.output / "engines" / "cpu")
    plain = compare(str(checkpoint), engine, None, "digits", 4, threads=1)
    assert {"distribution", "class_accuracy", "low_precision_share"}.isdisjoint(plain.results)
    limits = gate(fd=1e9, class_accuracy=0, low_precision_share=0, first_divergence=0)
    asked = compare(str(checkpoint), engine, limits, "digits", 4, threads=1, samples=6)
    assert asked.verdict.passed
    assert asked.results["distribution"].pictures == asked.results["coupled"].pictures == 6
    assert asked.results["distribution"].fd == asked.results["distribution"].own.frechet
    names = ("class_accuracy", "first_divergence")
    broken = compare(str(checkpoint), engine, gate(**dict.fromkeys(names, 1)), "digits", 4, threads=1).verdict.breaches
    assert tuple(each.measurement for each in broken) == ("first_divergence", "class_accuracy")


def test_a_quick_look_measures_everything_with_few_pictures(checkpoint: Path) -> None:
    quick = api.verify(checkpoint, checkpoint, quick=True, threads=1)
    assert (quick.fidelity.pictures, quick.results["coupled"].pictures) == (32, 4)
    given = api.verify(checkpoint, checkpoint, quick=True, held_out=5, samples=3, threads=1)
    assert (given.fidelity.pictures, given.results["coupled"].pictures) == (5, 3)
    assert set(quick.results) == set(given.results)


def test_what_cannot_be_compared_is_refused(checkpoint: Path, tmp_path: Path, tiny_model) -> None:
    (tmp_path / "other").mkdir()
    reference.save(tiny_model(classes=3), tmp_path / "other")
    with pytest.raises(InputError, match=r"other: classes is 3; that of .* is 10"):
        compare(str(checkpoint), str(tmp_path / "other"), None, "digits", 4, 1)
    with pytest.raises(InputError, match=r"^--held-out: 400 held_out pictures are asked for, but only 297 exist"):
        compare(str(checkpoint), str(checkpoint), None, "digits", 400, 1)
    with pytest.raises(InputError, match=r"^--tokens: 'nowhere' is neither a file nor 'digits'"):
        compare(str(checkpoint), str(checkpoint), None, "nowhere", None, 1)
    one = TokenSet(np.zeros((3, 64), int), np.zeros(3, int), np.array([0, 1, 2]))
    one.save(tmp_path / "one.npz")
    with pytest.raises(InputError, match="holds 1 held-out pictures; at least 2 are needed"):
        compare(str(checkpoint), str(checkpoint), None, str(tmp_path / "one.npz"), None, 1)
    short = TokenSet(np.zeros((3, 16), int), np.zeros(3, int), np.array([2, 2, 2]))
    short.save(tmp_path / "short.npz")
    with pytest.raises(InputError, match="16 tokens up to 0, classes up to 0; the models read 64 tokens below 17"):
        compare(str(checkpoint), str(checkpoint), None, str(tmp_path / "short.npz"), None, 1)


def test_pictures_are_taken_of_each_class_in_turn() -> None:
    rows = classes_in_turn(np.array([2, 0, 0, 2, 1, 0]))
    assert rows.tolist() == [1, 4, 0, 2, 3, 5]


def test_pictures_that_the_reference_drew_need_no_tokens(shared_run, checkpoint: Path) -> None:
    engine = str(shared_run.output / "engines" / "cpu")
    result = compare(str(checkpoint), engine, None, "drawn", 6, threads=1, than=str(checkpoint))
    assert (result.tokens, result.fidelity.pictures) == ("drawn", 6)
    assert result.difference is not None
    assert result.difference.kl == pytest.approx(result.fidelity.kl)
    assert result.decoding is not None
    assert result.decoding.psnr > 60, "the decoder was only exported"


def test_gates_on_what_is_not_measured_are_refused_before_the_work(checkpoint: Path) -> None:
    with pytest.raises(InputError, match=r"^--gates: speedup is not measured by verify, which judges loop_kl, coup"):
        compare(str(checkpoint), str(checkpoint), gate(speedup=1.5), "digits", 4, 1)


def test_a_reference_with_an_untrained_head_is_no_evidence(tiny_model, tmp_path: Path) -> None:
    model = tiny_model(classes=10, grid=(8, 8), vocabulary=17)
    model.transformer.head.weight.data.zero_()
    reference.save(model, tmp_path)
    result = compare(str(tmp_path), str(tmp_path), None, "digits", 4, 1)
    assert not result.verdict.passed
    (breach,) = result.verdict.breaches
    assert breach.measurement == "evidence"
    assert "this is no evidence: the reference's predictions are flat (100.00 %" in breach.text
