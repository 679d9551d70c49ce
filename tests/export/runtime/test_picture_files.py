"""Files of single pictures: what they are called, their pixels, and what they say of how they were drawn."""

from __future__ import annotations

import errno
import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.runtime import VERSION
from export.runtime.picture_files import Facts, file_names, save_each, save_image
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape

NAMED = Shape("causal", 7, 3, (2, 4), class_names=("cat", "猫 / dog", "../up"))
ROOT = Path(__file__).parents[3]


def facts(shape: Shape = NAMED, labels: tuple[int, ...] = (0, 1, 2, 3)) -> Facts:
    return Facts(shape, Sampler(top_k=4), 7, np.array(labels), "abc")


def test_names_tell_number_class_and_seed_and_stay_in_their_folder() -> None:
    names = ["0000-cat-seed7.png", "0001-猫_dog-seed7.png", "0002-.._up-seed7.png", "0003-unconditional-seed7.png"]
    assert file_names(None, None, facts()) == names
    assert file_names(None, "webp", facts(labels=(0,))) == ["0000-cat-seed7.webp"]
    assert file_names(None, "jpeg", facts(Shape("causal", 7, 0, (2, 4)), (0,))) == ["0000-seed7.jpg"]
    assert file_names(None, None, facts(Shape("causal", 7, 3, (2, 4)), (2,))) == ["0000-2-seed7.png"]


def test_a_pattern_names_files_and_its_ending_says_the_format() -> None:
    assert file_names("{name}-{label:02}.JPEG", None, facts(labels=(0, 2))) == ["cat-00.JPEG", ".._up-02.JPEG"]
    assert file_names("{seed}.{index}", "webp", facts(labels=(0,))) == ["7.0.webp"]


@pytest.mark.parametrize(
    ("pattern", "kind", "line"),
    [
        ("{label}.png", None, "--name: pictures 0 and 1 would both be '0.png'; {index} tells them apart"),
        ("{colour}", None, "--name '{colour}': {colour} is none of {index}, {label}, {name}, {seed}"),
        ("{name.upper}", None, "--name '{name.upper}': {name.upper} is none of {index}, {label}, {name}, {seed}"),
        ("{index:x!}", None, "--name '{index:x!}': "),
        ("{index", None, "--name '{index': "),
        ("a/{index}", None, "--name 'a/{index}': is no name of a file; folders are given by --out-dir"),
        (".{index}", None, "--name '.{index}': is no name of a file"),
        ("{index}.png", "jpeg", "--format jpeg: --name '{index}.png' ends with .png; leave one of both out"),
    ],
)
def test_a_pattern_that_names_no_files_is_refused(pattern: str, kind: str | None, line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(line)):
        file_names(pattern, kind, facts(labels=(0, 0)))


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_has_the_pixels_and_says_what_it_was_drawn_by(ending: str, channels: int, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, 16, 16, channels), dtype=np.uint8)
    folder = tmp_path / "new" / "folder"
    names = file_names(f"{{index}}.{ending}", None, facts(labels=(2, 1)))
    save_each(image, folder, names, facts(labels=(2, 1)))
    with Image.open(folder / names[1]) as opened:
        assert opened.mode == "RGB" if channels == 3 or ending == "webp" else "L"
        pixels = np.asarray(opened).reshape(16, 16, -1)[..., :channels]
        if ending == "png":
            found = {name: opened.info[name] for name in ("index", "label", "class", "seed", "engine", "Software")}
            assert json.loads(opened.info["sampler"])["top_k"] == 4
        else:
            exif = opened.getexif()
            found = {**json.loads(exif[0x010E]), "Software": exif[0x0131]}
            assert found.pop("sampler")["top_k"] == 4
    assert {name: str(value) for name, value in found.items()} == {
        "index": "1",
        "label": "1",
        "class": "猫 / dog",
        "seed": "7",
        "engine": "abc",
        "Software": f"image-token-engine {VERSION}",
    }
    if ending != "jpg":
        np.testing.assert_array_equal(pixels, image[1])


def test_a_model_without_classes_says_none() -> None:
    assert "label" not in facts(Shape("causal", 7, 0, (2, 4)), (0,)).of(0)
    assert "labels" not in facts(Shape("causal", 7, 0, (2, 4)), (0,)).of_all()
    assert facts(labels=(1, 0)).of_all()["classes"] == ["猫 / dog", "cat"]


def test_an_error_of_the_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        save_image(Image.new("L", (2, 2)), tmp_path / "a.png")
    assert caught.value.filename == str(tmp_path / "a.png")


def test_the_version_is_that_of_both_packages() -> None:
    for path in ("pyproject.toml", "export/runtime/pyproject.toml"):
        assert tomllib.loads((ROOT / path).read_text())["project"]["version"] == VERSION
