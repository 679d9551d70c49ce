"""Which class a picture is of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from compress.core.settings import InputError
from compress.data.class_labels import numbered, said_by_file, said_by_folders
from export.runtime.shape import Shape

NAMED = Shape("causal", 16, 3, (2, 2), class_names=("cat", "dog", "7"))
NUMBERED = Shape("causal", 16, 3, (2, 2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "1.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "2.png")
    return tmp_path


def by_folders(folder: Path):
    return said_by_folders(sorted(folder.rglob("*.png")), folder)


def test_names_of_folders_are_a_models_classes_or_make_some(folder: Path) -> None:
    said = by_folders(folder)
    assert [each.text for each in said] == ["", "cat", "dog"]
    labels, names = numbered(said, NAMED)
    assert (labels.tolist(), names) == ([3, 0, 1], NAMED.class_names)
    labels, names = numbered(said, None)
    assert (labels.tolist(), names) == ([2, 0, 1], ("cat", "dog"))


def test_numbers_of_folders_stay_numbers(folder: Path) -> None:
    (folder / "cat").rename(folder / "0")
    (folder / "dog").rename(folder / "2")
    said = by_folders(folder)
    assert [(*numbered(said, shape)[0].tolist(),) for shape in (NUMBERED, None)] == [(0, 2, 3), (0, 2, 3)]
    assert numbered(said, None)[1] == ()


def test_a_model_without_classes_asks_for_none(folder: Path) -> None:
    assert numbered(by_folders(folder), Shape("causal", 16, 0, (2, 2)))[0].tolist() == [0, 0, 0]


def test_a_folder_that_is_no_class_of_the_model_is_refused(folder: Path) -> None:
    (folder / "cat").rename(folder / "cta")
    with pytest.raises(InputError, match=r"cta: a subfolder is named for its class, 0 to 2, or by name; did you mean"):
        numbered(by_folders(folder), NAMED)
    with pytest.raises(InputError, match=r"cta: a subfolder is named for its class, 0 to 2$"):
        numbered(by_folders(folder), NUMBERED)


def test_a_file_says_the_classes_of_the_pictures_that_it_lists(folder: Path) -> None:
    (folder / "l.csv").write_text("File,Class\n2.png, dog\n\ncat/1.png,7\n")
    said = said_by_file(folder / "l.csv", folder)
    assert [each.picture.relative_to(folder).as_posix() for each in said] == ["2.png", "cat/1.png"]
    assert numbered(said, NAMED)[0].tolist() == [1, 2], "a name comes before a number"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2.png\n", "l.csv:1: has 1 columns; write a picture and its class, as  dog/1.png,dog"),
        ("2.png,dog\n3.png,dog\n", "l.csv:2: there is no picture '3.png' in "),
        ("2.png,dog\n2.png,cat\n", "l.csv:2: '2.png' stands there twice"),
        ("2.png,dgo\n", "l.csv:1: the second column is a class, 0 to 2, or by name; did you mean 'dog'?"),
        ('2.png,"dog\n', "l.csv: not a readable CSV file ("),
    ],
)
def test_a_file_that_says_no_classes_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "l.csv").write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        numbered(said_by_file(folder / "l.csv", folder), NAMED)


def test_names_that_cannot_be_kept_are_refused(folder: Path) -> None:
    (folder / "cat").rename(folder / ("c" * 201))
    with pytest.raises(InputError, match="is no name; printable text of at most 200 letters is"):
        numbered(by_folders(folder), None)
