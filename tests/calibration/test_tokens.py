"""TokenSets: disjoint parts, inputs, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calibration.archives import FileError
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


def test_names_of_classes_survive_and_count() -> None:
    tokens = TokenSet(**ZEROS, class_names=("a", "ö"))
    assert tokens.part("train").class_names == ("a", "ö")
    assert tokens.fingerprint() != TokenSet(**ZEROS).fingerprint()
    with pytest.raises(ValueError, match="labels holds 3, but there are 2 class_names"):
        TokenSet(ZEROS["tokens"], np.array([0, 3]), ZEROS["parts"], class_names=("a", "b"))


def test_names_of_classes_survive_a_file(tmp_path: Path) -> None:
    TokenSet(**ZEROS, class_names=("a", "ö")).save(tmp_path / "t.npz")
    assert TokenSet.load(tmp_path / "t.npz").class_names == ("a", "ö")
    np.savez(tmp_path / "u.npz", **ZEROS, class_names=np.array([1, 2]))
    with pytest.raises(FileError, match="array 'class_names': is int64; texts are needed"):
        TokenSet.load(tmp_path / "u.npz")
    np.savez(tmp_path / "v.npz", **ZEROS, class_names=np.full(2, 0x110000, np.uint32).view("<U1"))
    with pytest.raises(FileError, match="array 'class_names': holds what is no text"):
        TokenSet.load(tmp_path / "v.npz")


def test_more_pictures_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="298 held_out pictures are asked for, but only 297 exist"):
        digits().part("held_out", 298)


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"need \(N, T\), \(N,\) and \(N,\)"):
        TokenSet(np.zeros((2, 3), dtype=np.int64), np.zeros(1, dtype=np.int64), np.zeros(2, dtype=np.int64))


ZEROS = {"tokens": np.zeros((2, 3), np.int64), "labels": np.zeros(2, np.int64), "parts": np.zeros(2, np.int64)}
HUGE = np.array([[2**63, 0, 0]] * 2, np.uint64)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("tokens", np.zeros((2, 3)), "array 'tokens': is float64; whole numbers are needed"),
        ("tokens", np.zeros((2, 3), complex), "is complex128; whole numbers are needed"),
        ("tokens", np.full((2, 3), "1"), "is <U1; whole numbers are needed"),
        ("tokens", np.zeros((2, 3), "datetime64[s]"), r"is datetime64\[s\]; whole numbers are needed"),
        ("labels", np.zeros(2, bool), "array 'labels': is bool; whole numbers are needed"),
        ("tokens", np.full((2, 3), object()), "holds Python objects, which are never read"),
        ("tokens", HUGE, "holds 9223372036854775808, which is out of range"),
        ("tokens", np.array([[0, 1, 2], [3, -4, 5]]), r"tokens holds -4 \(picture 1\); none below 0 are allowed"),
        ("labels", np.array([0, -5]), r"labels holds -5 \(picture 1\); none below 0 are allowed"),
        ("parts", np.array([3, 0]), r"parts holds 3 \(picture 0\); 0 to 2 are allowed"),
        ("tokens", np.zeros(6, int), r"has 1 axes, shape \(6,\); 2 are needed"),
        ("labels", np.zeros(3, int), r"need \(N, T\), \(N,\) and \(N,\)"),
        ("features", np.full((2, 1, 1), np.nan), "array 'features': holds NaN or Inf"),
        ("features", np.full((2, 1, 1), 1e300), "features holds a number that float32 does not"),
        ("features", np.zeros((3, 1, 1)), r"features \(3, 1, 1\) of 2 pictures: need \(N, P, C\)"),
    ],
)
def test_other_numbers_than_those_of_a_token_set_are_refused(tmp_path: Path, name: str, array, message: str) -> None:
    path = tmp_path / "t.npz"
    np.savez(path, **(ZEROS | {name: array}))
    with pytest.raises(FileError, match=rf"t\.npz: .*{message}|t\.npz: {message}"):
        TokenSet.load(path)


def test_files_that_are_no_token_sets_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", tokens=np.zeros((1, 2), int))
    with pytest.raises(FileError, match="array 'labels' is missing; it holds 'tokens'"):
        TokenSet.load(tmp_path / "other.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(FileError, match="not a readable zip archive"):
        TokenSet.load(tmp_path / "text.npz")


@pytest.mark.parametrize("kind", ["u1", "<i2", ">i4", ">u8"])
def test_whole_numbers_of_any_size_order_and_layout_are_read(tmp_path: Path, kind: str) -> None:
    tokens = np.arange(6).reshape(2, 3)
    np.savez(tmp_path / "t.npz", **(ZEROS | {"tokens": np.asfortranarray(tokens.astype(kind))}))
    loaded = TokenSet.load(tmp_path / "t.npz")
    assert loaded.tokens.dtype == np.int64
    assert loaded.tokens.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_tokens_of_a_large_vocabulary_survive_their_file(tmp_path: Path) -> None:
    tokens = TokenSet(np.array([[65_535, 65_536, 262_143]]), *(np.zeros(1, np.int64),) * 2)
    tokens.save(tmp_path / "t.npz")
    assert TokenSet.load(tmp_path / "t.npz").tokens.tolist() == [[65_535, 65_536, 262_143]]


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
