import numpy as np
import pytest

from compress.measure.drift.coupled import coupled


def test_a_case_worked_by_hand():
    reference = np.zeros((4, 10), dtype=np.int64)
    candidate = reference.copy()
    candidate[1, 3:5] = 1
    candidate[2, 7] = 1
    candidate[3, :] = 1
    found = coupled(reference, candidate)
    assert (found.pictures, found.tokens) == (4, 10)
    assert found.identical == 0.25
    assert found.first_divergence == (0, 3, 7)
    assert found.edit_rate == pytest.approx(13 / 40)
    assert found.edit_rate_ci95[0] < found.edit_rate < found.edit_rate_ci95[1]


def test_equal_pictures_never_part():
    tokens = np.arange(30).reshape(3, 10)
    found = coupled(tokens, tokens)
    assert (found.identical, found.first_divergence, found.edit_rate) == (1.0, (10, 10, 10), 0.0)


def test_pictures_that_do_not_pair_up_are_refused():
    with pytest.raises(ValueError, match=r"tokens \(3, 4\) and \(2, 4\) are not of the same pictures"):
        coupled(np.zeros((3, 4), dtype=np.int64), np.zeros((2, 4), dtype=np.int64))
