import numpy as np
import pytest
from scipy.special import rel_entr, softmax
from scipy.stats import entropy

from compress.measure.drift.evidence import evidence


def logits_of(scale: float, pictures: int = 20) -> np.ndarray:
    return (scale * np.random.default_rng(0).normal(size=(pictures, 6, 40))).astype(np.float32)


def test_entropy_and_contrast_are_scipys():
    logits = logits_of(1.5)
    found = evidence(logits)
    p = softmax(logits.astype(np.float64), axis=-1)
    assert found.entropy == pytest.approx(entropy(p, axis=-1).mean() / np.log(40))
    assert found.contrast == pytest.approx(rel_entr(p, np.roll(p, 1, axis=0)).sum(axis=-1).mean())
    assert found.sound
    assert found.reason == ""


def test_flat_predictions_prove_nothing():
    found = evidence(logits_of(0.02))
    assert not found.sound
    assert "flat" in found.reason
    assert "untrained head" in found.reason


def test_predictions_that_depend_on_no_picture_prove_nothing():
    logits = np.broadcast_to(logits_of(3.0, 1), (20, 6, 40)) + logits_of(0.01)
    found = evidence(logits)
    assert not found.sound
    assert "nearly the same for every picture" in found.reason


def test_only_what_was_scored_counts(monkeypatch):
    logits, scored = logits_of(1.5), np.zeros((20, 6), dtype=bool)
    scored[:, :2] = True
    monkeypatch.setattr("compress.measure.drift.evidence.CHUNK_LOGITS", 1)
    assert evidence(logits, scored).entropy == pytest.approx(evidence(logits[:, :2]).entropy)
