"""TokenSets from the shipped digits, a file, or a folder of pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calibration.tokens import TokenSet
from compress.core.settings import InputError
from compress.data import tokens


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Ten black pictures of class 3, five white ones of class 7, and a grey one of none."""
    folder = tmp_path / "pictures"
    for label, count, level in (("3", 10, 0), ("7", 5, 255), ("", 1, 128)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.new("RGB", (30, 20), (level,) * 3).save(folder / label / f"{index}.png")
    return folder


def test_pictures_become_tokens_of_the_class_their_folder_names(pictures: Path, tiny_model) -> None:
    made = tokens.from_folder(pictures, tokens.Encoding.of(tiny_model()), validation=0.125, held_out=0.25, seed=0)
    assert made.tokens.shape == (16, 64)
    assert sorted(made.labels.tolist()) == [3] * 10 + [7] * 5 + [10]
    assert set(made.tokens[made.labels == 3].flat) == {0}
    assert set(made.tokens[made.labels == 7].flat) == {16}
    assert set(made.tokens[made.labels == 10].flat) == {8}
    assert [len(made.part(part)) for part in ("train", "validation", "held_out")] == [10, 2, 4]


def test_the_same_seed_splits_alike(pictures: Path, tiny_model) -> None:
    one, two = (tokens.from_folder(pictures, tokens.Encoding.of(tiny_model()), 0.1, 0.2, seed=4) for _ in range(2))
    assert one.fingerprint() == two.fingerprint()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "3" / "0.png").write_text("no"), r"3/0\.png: not a readable picture"),
        (lambda folder: (folder / "3").rename(folder / "cats"), r"cats: a subfolder is named for its class, 0 to 9"),
        (lambda folder: (folder / "3").rename(folder / "10"), r"10: a subfolder is named for its class, 0 to 9"),
        (lambda folder: folder.rename(folder.parent / "x"), "there is no such folder of pictures"),
    ],
)
def test_what_is_no_folder_of_pictures_is_refused(pictures: Path, tiny_model, harm, message: str) -> None:
    harm(pictures)
    with pytest.raises(InputError, match=message):
        tokens.from_folder(pictures, tokens.Encoding.of(tiny_model()), 0.1, 0.2, 0)


def test_an_empty_folder_and_shares_that_leave_nothing_are_refused(tmp_path: Path, tiny_model) -> None:
    with pytest.raises(InputError, match=r"holds no pictures \(\.png, "):
        tokens.from_folder(tmp_path, tokens.Encoding.of(tiny_model()), 0.1, 0.2, 0)
    with pytest.raises(InputError, match=r"validation 0\.5 and held-out 0\.5 leave nothing to train on; stay below 1"):
        tokens.from_folder(tmp_path, tokens.Encoding.of(tiny_model()), 0.5, 0.5, 0)


def test_a_source_is_digits_or_a_file(tmp_path: Path, tiny_tokens: TokenSet) -> None:
    assert len(tokens.open_source("digits", "here")) == 1797
    tiny_tokens.save(tmp_path / "t.npz")
    assert tokens.open_source(str(tmp_path / "t.npz"), "here").fingerprint() == tiny_tokens.fingerprint()
    with pytest.raises(InputError, match=r"^here: 'nothing' is neither a file nor 'digits'"):
        tokens.open_source("nothing", "here")


@pytest.mark.parametrize("keep", [0, 100, -50])
def test_a_damaged_file_is_refused(tmp_path: Path, tiny_tokens: TokenSet, keep: int) -> None:
    path = tmp_path / "t.npz"
    tiny_tokens.save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"^here: "):
        tokens.open_source(str(path), "here")


def test_a_set_without_pictures_is_refused(tmp_path: Path, tiny_tokens: TokenSet) -> None:
    tiny_tokens.take(np.arange(0)).save(tmp_path / "t.npz")
    with pytest.raises(InputError, match=r"^here: .*t\.npz holds no pictures"):
        tokens.open_source(str(tmp_path / "t.npz"), "here")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": (4, 4)}, r"pictures have 64 tokens; tiny reads 16 \(4x4\)"),
        ({"vocabulary": 16}, "token 16 is out of range; tiny knows 0 to 15"),
        ({"classes": 3}, r"class \d is out of range; tiny knows 0 to 3"),
    ],
)
def test_tokens_that_the_model_cannot_read_are_refused(tiny_tokens: TokenSet, tiny_model, change, message) -> None:
    tokens.check_fits(tiny_tokens, tiny_model(), "here")
    with pytest.raises(InputError, match=f"^here: {message}"):
        tokens.check_fits(tiny_tokens, tiny_model(**change), "here")


def test_a_tokenizer_alone_makes_classes_of_the_names_of_folders(pictures: Path, tiny_model) -> None:
    (pictures / "3").rename(pictures / "dark")
    (pictures / "7").rename(pictures / "bright")
    made = tokens.from_folder(pictures, tokens.Encoding.of(tiny_model().tokenizer), 0.1, 0.2, 0)
    assert made.class_names == ("bright", "dark")
    assert set(made.tokens[made.labels == 0].flat) == {16}
    assert sorted(made.labels.tolist()) == [0] * 5 + [1] * 10 + [2]


def test_pictures_come_back_from_tokens_in_folders_of_their_classes(pictures: Path, tiny_model, tmp_path: Path) -> None:
    for name, other in (("3", "dark"), ("7", "bright")):
        (pictures / name).rename(pictures / other)
    tokenizer = tiny_model().tokenizer
    made = tokens.from_folder(pictures, tokens.Encoding.of(tokenizer), 0.1, 0.2, 0)
    assert tokens.to_folder(made, tokenizer, tmp_path / "back") == 16
    again = tokens.from_folder(tmp_path / "back", tokens.Encoding.of(tokenizer), 0.1, 0.2, 0)
    assert again.class_names == made.class_names
    assert sorted(map(tuple, again.tokens.tolist())) == sorted(map(tuple, made.tokens.tolist()))
    assert np.bincount(again.labels).tolist() == [5, 10, 1]


def test_pictures_are_not_written_over_others_nor_of_other_tokens(tiny_tokens, tiny_model, tmp_path: Path) -> None:
    tokenizer = tiny_model().tokenizer
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(InputError, match="full: is there already; name a new folder"):
        tokens.to_folder(tiny_tokens, tokenizer, tmp_path / "full")
    with pytest.raises(InputError, match="the model decodes 16 tokens below 17"):
        tokens.to_folder(tiny_tokens, tiny_model(grid=(4, 4)).tokenizer, tmp_path / "new")


def test_tokens_whose_classes_have_other_names_than_the_models_are_refused(tiny_tokens, tiny_model) -> None:
    names = tuple("abcdefghij")
    model = replace(tiny_model(), class_names=names)
    tokens.check_fits(replace(tiny_tokens, class_names=names), model, "here")
    tokens.check_fits(tiny_tokens, model, "here")
    with pytest.raises(InputError, match=r"^here: calls class 1 'x'; the model calls it 'b'"):
        tokens.check_fits(replace(tiny_tokens, class_names=("a", "x", *names[2:])), model, "here")
