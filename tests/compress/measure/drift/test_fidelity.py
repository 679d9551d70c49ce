import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from torch.nn import functional

import compress
from calibration.tokens import digits
from compress.measure.drift.fidelity import COLUMNS, columns_of, difference, fidelity
from compress.measure.statistics import percentile_interval, resampled_means
from compress.models.transformer.examples import examples
from export.runtime.shape import Shape


def example(pictures=12, tokens=5, vocabulary=7, noise=0.3, seed=0):
    generator = np.random.default_rng(seed)
    reference = generator.normal(size=(pictures, tokens, vocabulary)).astype(np.float32)
    candidate = reference + noise * generator.normal(size=reference.shape).astype(np.float32)
    return reference, candidate, generator.integers(0, vocabulary, size=(pictures, tokens))


def test_nll_kl_agreement_and_difference_are_torchs_and_scipys():
    reference, candidate, targets = example()
    found = fidelity(reference, candidate, targets)
    nll, reference_nll = (
        functional.cross_entropy(torch.from_numpy(logits).double().flatten(0, 1), torch.from_numpy(targets).flatten())
        for logits in (candidate, reference)
    )
    p, q = (softmax(logits.astype(np.float64), axis=-1) for logits in (reference, candidate))
    kl = rel_entr(p, q).sum(axis=-1)
    assert found.nll == pytest.approx(nll.item())
    assert found.reference_nll == pytest.approx(reference_nll.item())
    assert found.nll_drift_nats == pytest.approx((nll - reference_nll).item())
    assert found.nll_drift == pytest.approx(((nll - reference_nll) / reference_nll).item())
    assert found.kl == pytest.approx(kl.mean())
    assert found.kl_p99 == pytest.approx(np.percentile(kl, 99))
    assert found.agreement == pytest.approx((p.argmax(-1) == q.argmax(-1)).mean())
    assert found.max_abs_difference == np.abs(reference.astype(np.float64) - candidate).max()
    assert (found.pictures, found.tokens) == (12, 60)


def test_a_candidate_equal_to_the_reference_drifts_by_exactly_nothing():
    reference, _, targets = example()
    found = fidelity(reference, reference, targets)
    assert (found.nll_drift, found.nll_drift_ci95, found.nll_drift_nats_ci95) == (0, (0, 0), (0, 0))
    assert (found.kl, found.kl_ci95, found.kl_p99, found.max_abs_difference) == (0, (0, 0), 0, 0)
    assert (found.agreement, found.agreement_ci95) == (1, (1, 1))


def test_a_case_worked_by_hand():
    reference = np.log([[[0.5, 0.5]], [[0.8, 0.2]]])
    candidate = np.log([[[0.25, 0.75]], [[0.8, 0.2]]])
    found = fidelity(reference, candidate, np.array([[0], [0]]))
    assert found.reference_nll == pytest.approx(-(np.log(0.5) + np.log(0.8)) / 2)
    assert found.nll_drift_nats == pytest.approx(np.log(2) / 2)
    assert found.kl == pytest.approx((0.5 * np.log(2) + 0.5 * np.log(2 / 3)) / 2)
    assert found.agreement == 0.5  # the tie of the first picture goes to token 0, the candidate says 1
    assert found.nll_drift_nats_ci95 == pytest.approx((0, np.log(2)))


def test_intervals_hold_their_values_and_are_paired():
    reference, candidate, targets = example(pictures=60, noise=0.05)
    found = fidelity(reference, candidate, targets)
    for name in ("nll", "reference_nll", "nll_drift", "nll_drift_nats", "kl", "agreement"):
        low, high = getattr(found, f"{name}_ci95")
        assert low <= getattr(found, name) <= high
    assert np.ptp(found.nll_drift_nats_ci95) < np.ptp(found.nll_ci95) / 4  # pictures differ more than the two models


def test_tokens_of_a_picture_are_not_counted_as_independent():
    reference, candidate, targets = example(pictures=30, tokens=1)
    once = fidelity(reference, candidate, targets)
    copies = (np.repeat(array, 50, axis=1) for array in (reference, candidate, targets))
    assert np.ptp(fidelity(*copies).kl_ci95) == pytest.approx(np.ptp(once.kl_ci95))


def test_logits_are_worked_through_in_chunks(monkeypatch):
    reference, candidate, targets = example()
    whole = fidelity(reference, candidate, targets)
    monkeypatch.setattr("compress.measure.drift.fidelity.CHUNK_LOGITS", 1)
    assert fidelity(reference, candidate, targets) == whole


def test_large_logits_do_not_overflow():
    reference, candidate, targets = example()
    assert fidelity(reference + 1e4, candidate + 1e4, targets).kl == pytest.approx(
        fidelity(reference, candidate, targets).kl, rel=1e-2
    )


def test_shapes_that_do_not_belong_together_are_refused():
    reference, candidate, targets = example()
    with pytest.raises(ValueError, match=r"targets \(12, 4\): need \(N, T, V\), \(N, T, V\) and \(N, T\)"):
        fidelity(reference, candidate, targets[:, :4])
    with pytest.raises(ValueError, match=r"reference logits \(12, 5, 7\), candidate logits \(11, 5, 7\)"):
        fidelity(reference, candidate[:11], targets)


def test_a_logit_that_is_not_a_number_is_named(monkeypatch):
    monkeypatch.setattr("compress.measure.drift.fidelity.CHUNK_LOGITS", 1)
    reference, candidate, targets = example()
    candidate[3, 2, 1] = np.nan
    with pytest.raises(ValueError, match="candidate logits: nan at picture 3, token 2, entry 1; every logit must be"):
        fidelity(reference, candidate, targets)


def test_only_tokens_that_are_asked_for_count_and_each_picture_the_same():
    reference, candidate, targets = example()
    scored = np.zeros(targets.shape, dtype=bool)
    scored[:, :2] = True
    part = fidelity(reference, candidate, targets, scored=scored)
    only = fidelity(reference[:, :2], candidate[:, :2], targets[:, :2])
    assert (part.tokens, only.tokens) == (24, 24)
    assert part.nll == pytest.approx(only.nll)
    assert part.kl_ci95 == pytest.approx(only.kl_ci95)
    assert part.kl_p99 == pytest.approx(only.kl_p99)
    assert part.agreement == pytest.approx(only.agreement)
    scored[0] = [True, False, False, False, False]
    uneven = fidelity(reference, candidate, targets, scored=scored)
    p, q = (softmax(logits.astype(np.float64), axis=-1) for logits in (reference, candidate))
    kl = rel_entr(p, q).sum(axis=-1)
    assert uneven.kl == pytest.approx(np.mean([kl[0, 0], *kl[1:, :2].mean(axis=1)]))


def test_a_picture_of_which_nothing_is_asked_is_refused():
    reference, candidate, targets = example()
    scored = np.ones(targets.shape, dtype=bool)
    scored[3] = False
    with pytest.raises(ValueError, match="a picture has no token that is scored"):
        fidelity(reference, candidate, targets, scored=scored)


def test_the_other_ways_to_look_at_a_token_are_scipys_and_numpys():
    reference, candidate, targets = example(vocabulary=20, noise=0.8)
    found = fidelity(reference, candidate, targets)
    p, q = (softmax(logits.astype(np.float64), axis=-1) for logits in (reference, candidate))
    assert found.kl_reverse == pytest.approx(rel_entr(q, p).sum(axis=-1).mean())
    assert found.total_variation == pytest.approx(np.abs(p - q).sum(axis=-1).mean() / 2)
    five = np.argsort(-q, axis=-1)[..., :5]
    assert found.agreement_top5 == pytest.approx((five == p.argmax(-1)[..., None]).any(axis=-1).mean())
    ranked = np.sort(p, axis=-1)
    margin = ranked[..., -1] - ranked[..., -2]
    agreeing = p.argmax(-1) == q.argmax(-1)
    assert found.agreement_weighted == pytest.approx((margin * agreeing).sum() / margin.sum())
    assert found.agreement_weighted > found.agreement, "wide margins fall less often"


def test_flat_predictions_agree_where_there_is_no_margin():
    flat = np.zeros((3, 2, 4))
    candidate = flat + np.array([0, 1, 0, 0])
    assert fidelity(flat, candidate, np.zeros((3, 2), dtype=int)).agreement_weighted == 1


def test_two_candidates_are_compared_picture_by_picture():
    reference, near, targets = example(pictures=60, noise=0.3)
    _, far, _ = example(pictures=60, noise=0.32)
    found = difference(reference, near, far, targets)
    alone = [fidelity(reference, each, targets) for each in (near, far)]
    assert found["kl"].value == pytest.approx(alone[0].kl - alone[1].kl)
    assert found["nll"].value == pytest.approx(alone[0].nll - alone[1].nll)
    assert found["kl"].high < 0, "the paired interval leaves out zero"
    assert alone[0].kl_ci95[1] > alone[1].kl_ci95[0], "though the intervals of the two overlap"
    same = difference(reference, near, near, targets)
    assert same["kl"].ci95 == (0, 0)


def test_bits_of_each_colour_value_are_nats_of_a_picture_in_another_unit():
    reference = np.zeros((3, 4, 2))
    candidate = np.zeros((3, 4, 2))
    candidate[..., 1] = np.log(3)  # the true token 0 has a quarter instead of half
    found = fidelity(reference, candidate, np.zeros((3, 4), dtype=int), colour_values=12)
    assert found.nll_drift_nats == pytest.approx(np.log(2))
    assert found.nll_drift_bits == pytest.approx(4 / 12)
    assert found.nll_drift_bits_ci95 == pytest.approx((4 / 12, 4 / 12))
    masked = Shape("masked", 2, 1, (2, 2))
    scored = np.ones((3, 4), dtype=bool)
    assert fidelity(reference, candidate, np.zeros((3, 4), dtype=int), 0, scored, masked, 12).nll_drift_bits is None


@pytest.mark.slow
@pytest.mark.parametrize(("count", "least"), [(10, 0.90), (30, 0.93)])
def test_intervals_of_a_few_pictures_cover_what_all_of_them_show(count: int, least: float) -> None:
    model, pictures = compress.load("digits"), digits().part("held_out")
    asked = examples(model.shape, pictures)
    generator = torch.Generator().manual_seed(0)
    rough = compress.load("digits")
    with torch.no_grad():  # 2 % noise on every weight drifts about as far as int8
        for parameter in rough.transformer.parameters():
            parameter *= 1 + 0.02 * torch.randn(parameter.shape, generator=generator)
    values = columns_of(model.score(asked.inputs), rough.score(asked.inputs), asked.targets, asked.scored).per_picture
    truth, covered, trials = values.mean(axis=0), np.zeros(values.shape[1]), 1500
    for seed in range(trials):
        few = values[np.random.default_rng(seed).integers(0, len(values), count)]
        draws = resampled_means(few, seed, resamples=500)
        for column in range(values.shape[1]):
            found = percentile_interval(few[:, column].mean(), draws[:, column], count)
            covered[column] += found.low <= truth[column] <= found.high
    shares = dict(zip(COLUMNS, covered / trials, strict=False))
    assert min(shares[name] for name in ("kl", "total_variation", "agreement", "nll")) >= least, shares
