"""TokenSets: disjoint parts, inputs, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calibration.tokens import TokenSet, digits, split


def test_the_digits_are_split_into_disjoint_stratified_parts() -> None:
    tokens = digits()
    assert len(tokens) == 1797
    assert tokens.tokens.shape == (1797, 64)
    assert tokens.tokens.min() == 0
    assert tokens.tokens.max() == 16
    assert [len(tokens.part(part)) for part in ("train", "validation", "held_out")] == [1400, 100, 297]
    shares = np.bincount(tokens.part("held_out").labels) / np.bincount(tokens.labels)
    np.testing.assert_allclose(shares, 297 / 1797, atol=0.006)
    assert digits().fingerprint() == tokens.fingerprint()


def test_parts_have_exact_sizes_even_for_few_pictures() -> None:
    parts = split(np.zeros(7, dtype=np.int64), validation=2, held_out=3, seed=0)
    assert np.bincount(parts).tolist() == [2, 2, 3]


def test_a_set_survives_its_file(tmp_path: Path) -> None:
    tokens = digits().part("held_out", 5)
    tokens.save(tmp_path / "tokens.npz")
    assert TokenSet.load(tmp_path / "tokens.npz").fingerprint() == tokens.fingerprint()


def test_more_pictures_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="298 held_out pictures are asked for, but only 297 exist"):
        digits().part("held_out", 298)


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"need \(N, T\), \(N,\) and \(N,\)"):
        TokenSet(np.zeros((2, 3), dtype=np.int64), np.zeros(1, dtype=np.int64), np.zeros(2, dtype=np.int64))


def test_files_that_are_no_token_sets_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", tokens=np.zeros((1, 2)))
    with pytest.raises(ValueError, match="no array 'labels'; a TokenSet has tokens, labels and parts"):
        TokenSet.load(tmp_path / "other.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match="not a readable TokenSet"):
        TokenSet.load(tmp_path / "text.npz")
    np.savez(tmp_path / "pickle.npz", tokens=np.array([object()], dtype=object), labels=np.zeros(1), parts=np.zeros(1))
    with pytest.raises(ValueError, match="not a readable TokenSet"):
        TokenSet.load(tmp_path / "pickle.npz")


def texts() -> TokenSet:
    """Three pictures of texts."""
    features = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    zeros = np.zeros(3, dtype=np.int64)
    return TokenSet(np.arange(6).reshape(3, 2), zeros, np.array([0, 1, 2]), features)


def test_features_of_texts_survive_their_file(tmp_path: Path) -> None:
    tokens = texts()
    tokens.save(tmp_path / "texts.npz")
    loaded = TokenSet.load(tmp_path / "texts.npz")
    assert loaded.features is not None
    assert loaded.features.dtype == np.float32
    assert (loaded.features == tokens.features).all()
    assert loaded.fingerprint() == tokens.fingerprint()


def test_features_go_with_their_pictures() -> None:
    tokens = texts()
    assert tokens.features is not None
    assert (tokens.take(np.array([2, 0])).features == tokens.features[[2, 0]]).all()
    assert (tokens.part("validation").features == tokens.features[[1]]).all()
    assert digits().part("held_out", 1).features is None


def test_the_fingerprint_knows_every_feature() -> None:
    tokens = texts()
    assert tokens.features is not None
    changed = tokens.features.copy()
    changed[1, 2, 3] += 1
    prints = {
        TokenSet(tokens.tokens, tokens.labels, tokens.parts, features).fingerprint()
        for features in (None, tokens.features, changed, tokens.features.reshape(3, 5, 4))
    }
    assert len(prints) == 4


@pytest.mark.parametrize("shape", [(2, 4, 5), (3, 4)])
def test_features_that_do_not_belong_to_the_pictures_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"features .* of 3 pictures: need \(N, P, C\)"):
        TokenSet(
            np.zeros((3, 2), dtype=np.int64), np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64), np.zeros(shape)
        )
