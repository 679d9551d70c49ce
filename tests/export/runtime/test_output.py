"""Where pictures go: a sheet, a file each, or both."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.runtime.output import Output
from export.runtime.picture_files import Facts
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape

FACTS = Facts(Shape("causal", 7, 3, (2, 4)), Sampler(), 7, np.array([2, 0, 1]), "abc")


def test_a_sheet_and_files_are_written_and_said(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    output = Output(tmp_path / "all.webp", tmp_path / "each", "png", None, "2x3")
    output.check(FACTS)
    output.write(images, FACTS)
    with Image.open(tmp_path / "all.webp") as sheet:
        assert (sheet.format, sheet.size) == ("WEBP", (4 + 2 * 68, 4 + 3 * 68))
        assert '"labels": [2, 0, 1]' in sheet.getexif()[0x010E]
    names = [f"{index:04}-{label}-seed7.png" for index, label in enumerate((2, 0, 1))]
    assert sorted(path.name for path in (tmp_path / "each").iterdir()) == names
    assert output.line(3, 1.5) == f"{tmp_path}/each and {tmp_path}/all.webp: 3 pictures in 1.5 s, 2 images/s"
    assert Output(Path("a.png")).line(1, 0.25) == "a.png: 1 picture in 0.25 s, 4 images/s"
    said = output.said(FACTS, 1.5)
    assert said["files"] == [str(tmp_path / "each" / name) for name in names]
    assert (said["seconds"], said["images_per_second"], said["seed"], said["labels"]) == (1.5, 2.0, 7, [2, 0, 1])


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "-o FILE: needed for a sheet of all pictures, or --out-dir FOLDER for a file each"),
        ({"sheet": "a", "kind": "png"}, "--format: is of files in --out-dir; give that too, or leave it out"),
        ({"sheet": "a", "pattern": "{index}"}, "--name: is of files in --out-dir; give that too, or leave it out"),
        ({"folder": "a", "grid": "2"}, "--grid: is of the sheet; give -o too, or leave it out"),
        ({"sheet": "a", "grid": "0x2"}, "--grid '0x2': is no grid like 4x3 (columns x rows), or 4 (columns)"),
        ({"folder": __file__}, f"--out-dir {__file__}: is a file; name a folder"),
        ({"folder": "a", "pattern": "{x}"}, "--name '{x}': {x} is none of {index}, {label}, {name}, {seed}"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, str], line: str) -> None:
    paths = {name: Path(value) if name in ("sheet", "folder") else value for name, value in options.items()}
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        Output(**paths)


def test_more_pictures_than_the_grid_has_room_for_are_refused_before_they_are_drawn() -> None:
    with pytest.raises(ValueError, match=r"^--grid 2x1: has room for 2 of 3 pictures; --grid 2 takes as many rows as"):
        Output(Path("a"), grid="2x1").check(FACTS)
    Output(Path("a"), grid="2").check(FACTS)
