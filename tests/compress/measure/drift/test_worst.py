"""The worst class, place and token, with intervals that hold for all that was looked at."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import rel_entr, softmax
from scipy.stats import t as student

from compress.measure import Measurement
from compress.measure.drift import fidelity as fidelity_module
from compress.measure.drift.fidelity import Fidelity, columns_of, fidelity
from compress.measure.drift.worst import Worst, worst
from compress.measure.statistics import largest
from compress.measure.subject import Given, Subject
from compress.models.transformer.examples import Examples
from compress.recipe.gates import gate
from compress.recipe.verdict import judge
from export.runtime.shape import Shape, TextShape

PICTURES, TOKENS, VOCABULARY = 40, 6, 12


@pytest.fixture
def logits():
    """Of a reference, and of a candidate that is a little off everywhere."""
    generator = np.random.default_rng(0)
    reference = generator.normal(size=(PICTURES, TOKENS, VOCABULARY))
    return reference, reference + 0.02 * generator.normal(size=reference.shape)


LABELS = np.arange(PICTURES) % 4
TARGETS = np.zeros((PICTURES, TOKENS), dtype=np.int64)


def of(reference, candidate, labels=LABELS, scored=None):
    return worst(columns_of(reference, candidate, TARGETS[: len(reference)], scored), labels)


def test_the_worst_of_each_is_scipys_largest_mean(logits):
    reference, candidate = logits
    p, q = softmax(reference, axis=-1), softmax(candidate, axis=-1)
    kl = rel_entr(p, q).sum(axis=-1)
    by_class, by_place = [kl[each == LABELS].mean() for each in range(4)], kl.mean(axis=0)
    by_token = np.abs(p - q).sum(axis=(0, 1)) / p.sum(axis=(0, 1))
    found = of(reference, candidate)
    assert (found.class_kl, found.worst_class) == (pytest.approx(max(by_class)), np.argmax(by_class))
    assert (found.position_kl, found.worst_position) == (pytest.approx(by_place.max()), by_place.argmax())
    assert (found.token_shift, found.worst_token) == (pytest.approx(by_token.max()), by_token.argmax())
    assert (found.pictures, found.classes, found.positions, found.tokens) == (PICTURES, 4, TOKENS, VOCABULARY)


def test_the_mean_of_the_shift_over_tokens_is_twice_the_total_variation(logits):
    compared = columns_of(*logits, TARGETS, None)
    total_variation = fidelity(*logits, TARGETS).total_variation
    assert compared.moved.sum() / compared.expected.sum() == pytest.approx(2 * total_variation)


def test_the_interval_of_even_looks_is_students_corrected_for_their_number():
    parts = np.array([[1.0, 2.0], [3.0, 2.0], [2.0, 5.0], [2.0, 3.0]])  # means 2 and 3, variances 2/3 and 2
    place, found = largest(parts, np.ones((4, 2)))
    reach = student.ppf(1 - 0.025 / 2, 2 * (4 - 1))
    # The median of the relative spreads, 0.408 and 0.471, is 0.440: the first is taken to spread as much as that.
    relative = (np.sqrt(2 / 3) / 2 + np.sqrt(2) / 3) / 2
    first, second = relative * 2 / 2, np.sqrt(2) / 2
    assert (place, found.value) == (1, 3.0)
    assert found.low == pytest.approx(max(2 - reach * first, 3 - reach * second))
    assert found.high == pytest.approx(max(2 + reach * first, 3 + reach * second))


def test_a_look_of_one_picture_spreads_as_the_others_do():
    parts = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    place, found = largest(parts, (parts > 0).astype(float))  # means 2 and 4; only the first has a spread, sqrt(2)
    reach = student.ppf(1 - 0.025 / 2, 1)
    assert (place, found.value, found.high) == (1, 4.0, pytest.approx(4 + reach * np.sqrt(2) / 2 * 4))


def test_nothing_is_said_where_no_look_knows_its_spread():
    assert largest(np.eye(3), np.eye(3)) is None


@pytest.mark.parametrize("factor", [1, 4])
def test_the_interval_of_the_worst_holds_the_worst_of_all_looks(factor):
    """Gamma values whose spread is 40 % of their mean, ten looks of 3 to 30 pictures; at least 95 % are asked for."""
    generator = np.random.default_rng(1)
    means = np.linspace(1, 1.2, 10)
    means[3] *= factor
    looks = np.repeat(np.arange(10), np.arange(3, 33, 3))
    sizes = (looks[:, None] == np.arange(10)).astype(float)
    held = 0
    for _ in range(400):
        values = generator.gamma(6.25, means[looks] / 6.25)
        _, found = largest(values[:, None] * sizes, sizes)
        held += found.low <= means.max() <= found.high
    assert held / 400 >= 0.95


def test_a_fault_of_one_class_stands_out_where_the_mean_hides_it(logits):
    reference, candidate = logits
    candidate = candidate.copy()
    labels = np.arange(PICTURES) % 10
    rows = labels == 7
    candidate[rows] += 10 * (candidate - reference)[rows]
    found = of(reference, candidate, labels)
    assert found.worst_class == 7
    assert found.class_kl > 5 * fidelity(reference, candidate, TARGETS).kl
    assert found.class_kl_ci95[0] > of(reference, logits[1], labels).class_kl_ci95[1]


def test_a_fault_of_one_place_stands_out(logits):
    reference, candidate = logits
    candidate = candidate.copy()
    candidate[:, 4] = candidate[:, 3]
    found = of(reference, candidate)
    assert found.worst_position == 4
    assert found.position_kl_ci95[0] > of(*logits).position_kl_ci95[1]


def swapped(logits):
    logits[..., [2, 9]] = logits[..., [9, 2]]


def biased(logits):
    logits[..., 9] += 0.3


def dead(logits):
    logits[..., 9] = -1e9


@pytest.mark.parametrize("plant", [swapped, biased, dead])
def test_a_fault_of_one_token_stands_out_of_noise(logits, plant):
    reference, candidate = logits
    healthy = of(reference, candidate)
    candidate = candidate.copy()
    plant(candidate)
    found = of(reference, candidate)
    assert found.worst_token in (2, 9)
    assert healthy.token_shift_ci95[1] < 0.05 < 0.2 < found.token_shift_ci95[0]


def test_a_token_that_is_never_drawn_any_more_lost_all_of_its_probability(logits):
    reference, candidate = logits[0], logits[0].copy()
    dead(candidate)
    assert of(reference, candidate).token_shift == pytest.approx(1)


def test_equal_scores_drift_nowhere(logits):
    found = of(logits[0], logits[0])
    assert (found.class_kl, found.position_kl, found.token_shift) == (0, 0, 0)
    assert (found.class_kl_ci95, found.position_kl_ci95, found.token_shift_ci95) == ((0, 0), (0, 0), (0, 0))


def test_classes_of_one_picture_are_left_out_and_counted(logits):
    labels = np.array([0] * 20 + [1] * 18 + [5, 8])
    found = of(*logits, labels)
    assert (found.classes, found.classes_left_out) == (2, 2)
    assert of(*logits, np.arange(PICTURES)).class_kl is None


def test_without_classes_there_is_no_worst_one(logits):
    found = of(*logits, None)
    assert (found.class_kl, found.class_kl_ci95, found.worst_class, found.classes) == (None, None, None, 0)
    assert found.position_kl is not None


def test_only_tokens_that_are_scored_count_and_places_need_two_pictures(logits):
    reference, candidate = logits
    scored = np.ones((PICTURES, TOKENS), dtype=bool)
    scored[1:, 5] = False
    scored[:20, 2] = False
    candidate = candidate.copy()
    candidate[:20, 2] = 50 * candidate[:20, 2]
    candidate[0, 5] = 50 * candidate[0, 5]
    found = of(reference, candidate, None, scored)
    kl = rel_entr(softmax(reference, axis=-1), softmax(candidate, axis=-1)).sum(axis=-1)
    assert found.positions == TOKENS - 1
    means = [kl[scored[:, place], place].mean() for place in range(5)]
    assert (found.position_kl, found.worst_position) == (pytest.approx(max(means)), np.argmax(means))


def test_tokens_that_the_reference_hardly_expects_are_not_looked_at(logits):
    reference, candidate = logits[0].copy(), logits[1].copy()
    reference[..., 3], candidate[..., 3] = -12.0, -3.0
    found = of(reference, candidate)
    assert found.tokens == VOCABULARY - 1
    assert found.worst_token != 3


class Scored:
    """A side of a comparison that has scores and nothing else."""

    def __init__(self, given, scores):
        self.given, self.scores, self.key = given, scores, ""


def subject_of(logits, shape):
    inputs = np.concatenate([LABELS[:, None] + shape.first_class, TARGETS[:, :-1]], axis=1)
    given = Given(shape, (2, 3, 1), Examples(inputs, TARGETS, np.ones_like(TARGETS, dtype=bool)), 0, 0)
    return Subject(*(Scored(given, scores) for scores in reversed(logits)))


def test_fidelity_and_the_worst_share_one_comparison(logits, monkeypatch):
    calls, subject = [], subject_of(logits, Shape("causal", VOCABULARY, 4, (2, 3)))
    alone = fidelity(*logits, TARGETS, shape=subject.given.shape, colour_values=6)
    monkeypatch.setattr(fidelity_module, "columns_of", lambda *args: calls.append(1) or columns_of(*args))
    assert Fidelity.measured(subject) == alone
    assert Worst.measured(subject) == of(*logits)
    assert calls == [1]


def test_texts_are_no_classes(logits):
    shape = Shape("causal", VOCABULARY, 0, (2, 3), text=TextShape(2, 4))
    assert Worst.measured(subject_of(logits, shape)).class_kl is None


def test_a_breach_names_the_class_the_place_or_the_token(logits):
    row = Measurement("int8", "torch", 1, 1, measures={"worst": of(*logits)})
    found = of(*logits)
    breaches = judge(gate(worst_class_kl=0, worst_position_kl=0, worst_token_shift=0), row, "int8")
    said = [each.text for each in breaches]
    assert f" of class {found.worst_class} (95 % interval up to " in said[0]
    assert f" of position {found.worst_position} (95 % interval up to " in said[1]
    assert f" of token {found.worst_token} (95 % interval up to " in said[2]
    assert judge(gate(worst_class_kl=1, worst_position_kl=1, worst_token_shift=1), row, "int8") == []


def test_a_gate_on_a_class_of_a_model_without_classes_was_not_measured(logits):
    row = Measurement("int8", "torch", 1, 1, measures={"worst": of(*logits, None)})
    (breach,) = judge(gate(worst_class_kl=1), row, "int8")
    assert breach.text.startswith("int8: worst_class_kl was not measured, so the gate's 1 nats cannot be shown")
