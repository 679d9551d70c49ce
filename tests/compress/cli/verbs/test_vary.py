"""The command `vary`, and what it has in common with `outpaint` and `upscale`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from compress.models.families import reference
from export.runtime.engine import Engine
from export.runtime.manifest import file_hash


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture of the size of the tiny model's."""
    Image.fromarray((np.indices((8, 8)).sum(axis=0) * 18).astype(np.uint8)).save(tmp_path / "in.png")
    return tmp_path / "in.png"


def test_variations_of_an_engine_are_files_that_say_what_they_were_drawn_by(
    tiny_engine: Path, picture: Path, tmp_path: Path, invoke: Callable[..., Result]
) -> None:
    given = ("vary", tiny_engine, picture, "--label", "3,4", "--count", 2, "--seed", 5, "--keep", 0.25)
    result = invoke(*given, "--out-dir", tmp_path / "each", "-o", tmp_path / "sheet.png", "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert (said["labels"], said["verb"], said["how"]["keep"]) == ([3, 3, 4, 4], "vary", 0.25)
    assert (said["width"], said["height"], said["windows"]) == (8, 8, 1)
    names = [Path(file).name for file in said["files"]]
    assert names == ["0000-3-seed5.png", "0001-3-seed5.png", "0002-4-seed5.png", "0003-4-seed5.png"]
    with Image.open(said["files"][2]) as opened:
        info = opened.info
    assert (info["label"], info["seed"], info["verb"]) == ("4", "5", "vary")
    assert info["engine"] == file_hash(tiny_engine / "manifest.json")
    assert info["picture"] == hashlib.sha256(picture.read_bytes()).hexdigest()
    assert json.loads(info["how"]) == {"keep": 0.25, "where": None, "blend": None}
    again = invoke(*given, "--out-dir", tmp_path / "again")
    assert again.stdout.startswith(f"{tmp_path}/again: 4 pictures in ")
    assert again.stdout.endswith(" images/s (8 x 8 pixels)\n")
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "each" / name).read_bytes()


def test_keeping_everything_is_what_the_decoder_shows_and_keeping_nothing_is_what_generate_draws(
    tiny_engine: Path, picture: Path, tmp_path: Path, invoke: Callable[..., Result]
) -> None:
    assert invoke("vary", tiny_engine, picture, "--keep", 1, "--out-dir", tmp_path / "all").exit_code == 0
    engine = Engine.load(tiny_engine, threads=1)
    shown = engine.decode_images(engine.encode_images(np.asarray(Image.open(picture))[None, ..., None]))[0, ..., 0]
    (file,) = (tmp_path / "all").iterdir()
    assert file.name == "0000-unconditional-seed0.png"
    assert np.array_equal(np.asarray(Image.open(file)), shown)
    given = ("--seed", 7, "--out-dir")
    assert invoke("vary", tiny_engine, picture, "--keep", 0, "--label", 3, *given, tmp_path / "a").exit_code == 0
    assert invoke("generate", tiny_engine, "--labels", 3, *given, tmp_path / "b").exit_code == 0
    a, b = (np.asarray(Image.open(tmp_path / folder / "0000-3-seed7.png")) for folder in "ab")
    assert np.array_equal(a, b)


def test_what_an_engine_or_a_picture_does_not_allow_is_one_line(
    tiny_engine: Path, picture: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    out = ("-o", tmp_path / "out.png")
    nowhere = tmp_path / "none.png"
    assert refused("vary", tiny_engine, nowhere, *out) == f"{nowhere}: there is no such file"
    line = "-o FILE: needed for a sheet of all pictures, or --out-dir FOLDER for a file each"
    assert refused("vary", tiny_engine, picture) == line
    line = "cfg_scale 3.0: guides towards a class; give a --label too, or leave it out"
    assert refused("vary", tiny_engine, picture, "--cfg-scale", 3, *out) == line
    assert refused("vary", tiny_engine, picture, "--label", 1, "--steps", 3, *out).startswith(
        "steps 3: this model draws"
    )
    line = "--extend left: this model draws token by token, each behind those before it"
    assert refused("outpaint", tiny_engine, picture, "--extend", "left=1", *out).startswith(line)
    line = "--extend: 'up' is no side"
    assert refused("outpaint", tiny_engine, picture, "--extend", "up=1", *out).startswith(line)
    assert refused("upscale", tiny_engine, picture, *out).startswith("upscale: this model draws token by token")
    assert not (tmp_path / "out.png").exists()


def test_an_engine_without_encoder_is_refused_in_one_line(
    tiny_engine: Path, picture: Path, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compress.models.candidate.can_encode", lambda candidate: False)
    assert refused("vary", tiny_engine, picture, "-o", tmp_path / "out.png") == (
        f"{tiny_engine}: has no image encoder, so the picture cannot become tokens; its checkpoint only decodes"
    )


def test_a_picture_is_continued_and_enlarged_window_by_window(
    tiny_engine: Path, picture: Path, tiny_model, tmp_path: Path, invoke: Callable[..., Result]
) -> None:
    given = np.asarray(Image.open(picture))
    result = invoke("outpaint", tiny_engine, picture, "--extend", "right=1", "--out-dir", tmp_path / "wide")
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(" images/s (16 x 8 pixels, 2 windows)\n")
    with Image.open(tmp_path / "wide" / "0000-unconditional-seed0.png") as wide:
        assert np.array_equal(np.asarray(wide)[:, :8], given)
        assert json.loads(wide.info["how"])["extend"] == {"right": 1.0}
    masked = tiny_model(order="masked", positions="learned", modulation="class")
    (tmp_path / "masked").mkdir()
    reference.save(masked, tmp_path / "masked")
    result = invoke("upscale", tmp_path / "masked", picture, "--label", 3, "--steps", 2, "-o", tmp_path / "large.webp")
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(" images/s (16 x 16 pixels, 9 windows)\n")
