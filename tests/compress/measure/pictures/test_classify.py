import numpy as np
import pytest
from scipy import ndimage

from calibration.tokens import digits
from compress.measure.pictures.classify import DigitClassifier, moved


@pytest.fixture(scope="module")
def classifier():
    return DigitClassifier.train(digits())


def test_the_classifier_is_right_on_98_percent_of_held_out_digits(classifier):
    held_out = digits().part("held_out")
    assert classifier.held_out.value >= 0.98
    assert classifier.accuracy(held_out.tokens, held_out.labels) == classifier.held_out


def test_wrong_labels_are_not_recognised(classifier):
    held_out = digits().part("held_out")
    assert classifier.accuracy(held_out.tokens, (held_out.labels + 1) % 10).high < 0.05


def test_two_models_are_compared_on_the_same_pictures(classifier):
    held_out = digits().part("held_out")
    spoilt = held_out.tokens.copy()
    spoilt[:30] = 0
    found = classifier.compare(held_out.tokens, spoilt, held_out.labels)
    right = classifier.recognised(held_out.tokens, held_out.labels)
    blank = classifier.recognised(spoilt[:30], held_out.labels[:30])
    lost = int(right[:30].sum()) - int(blank.sum())
    assert found.pictures == 297
    assert found.reference_accuracy == pytest.approx(right.mean())
    assert found.drop == pytest.approx(lost / 297)
    assert found.drop_ci95[0] < found.drop < found.drop_ci95[1]
    assert found.classifier_accuracy == classifier.held_out.value


def test_moved_copies_are_those_of_scipy():
    tokens = np.random.default_rng(0).integers(1, 17, size=(4, 64))
    wanted = [
        ndimage.shift(picture.reshape(8, 8), (down, right), order=0).ravel()
        for down, right in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
        for picture in tokens
    ]
    np.testing.assert_array_equal(moved(tokens), wanted)
