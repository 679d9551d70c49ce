"""What a recipe says of a foreign decoder's ids becomes the writing of a picture, or one line of what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compress.core.settings import InputError
from compress.models.adopted import files_of, picture_config

GRID = {"grid": [2, 2]}


def writing(config: dict, vocabulary: int = 3, known: tuple[int, ...] = ()):
    """The writing of a config."""
    return picture_config({**GRID, **config}, "r.yaml: model.config").writing(vocabulary, known, "r.yaml: model.config")


def test_image_ids_follow_an_offset_and_prompts_are_joined() -> None:
    made = writing(
        {
            "image_offset": 5,
            "start": [1],
            "classes": [20, [21, 22]],
            "no_class": 30,
            "picture_start": [9],
            "row_end": [8],
        }
    )
    assert made.image_ids == (5, 6, 7)
    assert made.prompts == ((1, 20, 9), (1, 21, 22, 9), (1, 30, 9))
    assert made.row_end == (8,)


def test_a_decoder_without_classes_has_one_prompt() -> None:
    assert writing({"image_ids": [4, 2, 9], "start": [1, 3]}).prompts == ((1, 3),)


def test_ids_that_the_models_own_config_says_are_taken_unless_others_are_given() -> None:
    assert writing({"start": [1]}, known=(7, 9, 8)).image_ids == (7, 9, 8)
    assert writing({"start": [1], "image_offset": 4}, known=(7, 9, 8)).image_ids == (4, 5, 6)


def test_lists_may_lie_in_json_files(tmp_path: Path) -> None:
    ids, classes = tmp_path / "ids.json", tmp_path / "classes.json"
    ids.write_text(json.dumps([3, 2, 1]))
    classes.write_text(json.dumps([[5, 6], [7, 8]]))
    config = {"image_ids": str(ids), "classes": str(classes), "no_class": [9, 9]}
    assert writing(config).image_ids == (3, 2, 1)
    assert writing(config).prompts == ((5, 6), (7, 8), (9, 9))
    assert files_of(config) == [ids, classes]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"image_offset": 1}, "a prompt without ids: .*; give start, classes or picture_start"),
        ({"start": [1]}, "give image_offset or image_ids, the ids of the 3 image tokens"),
        ({"start": [1], "image_ids": [1, 2]}, "image_ids: 2 ids for 3 image tokens"),
        ({"start": [1], "image_ids": [1, 2, 2]}, "two image tokens have the same id"),
        ({"start": [1], "image_ids": [1, 2, "x"]}, "image_ids: 'x' is no id; ids are whole numbers from 0"),
        ({"start": [1], "image_ids": "no.json"}, "image_ids: no.json: there is no such file"),
        ({"start": [1], "image_ids": [1, 2, 3], "image_offset": 1}, "say the same thing; keep one"),
        ({"image_offset": 1, "classes": [4]}, "'no_class' is missing; guidance and pictures without a class read it"),
        ({"image_offset": 1, "start": [1], "no_class": 4}, "no_class: there are no classes; put its ids into start"),
        ({"image_offset": 1, "classes": 4}, "classes: 4 is not a list"),
        ({"image_offset": 1, "start": [1], "image_vocabulary": 4}, "image_vocabulary: 4; the tokenizer has 3"),
        ({"image_offest": 1}, "unknown key 'image_offest'; did you mean 'image_offset'?"),
    ],
)
def test_what_is_wrong_is_one_line(config: dict, words: str) -> None:
    with pytest.raises(InputError, match=r"r\.yaml: model\.config.*" + words) as error:
        writing(config)
    assert "\n" not in str(error.value)
