"""Pictures of every mode are read as they look, and what cannot be read is refused in one line."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

GREYS = np.broadcast_to(np.repeat(np.array([32, 96, 160, 224], np.uint8), 4), (16, 16))
LEVELS = [2, 6, 10, 14]  # of 0 to 16
SPLIT = ("--held-out", 0, "--validation", 0)
MODES: dict[str, Callable[[], Image.Image]] = {
    "8 bit": lambda: Image.fromarray(GREYS.copy()),
    "16 bit": lambda: Image.fromarray(GREYS.astype(np.uint16) * 257),
    "32 bit": lambda: Image.fromarray(GREYS.astype(np.int32) * 257),
    "float": lambda: Image.fromarray(GREYS.astype(np.float32) / 255),
    "RGB": lambda: Image.fromarray(GREYS.copy()).convert("RGB"),
    "opaque RGBA": lambda: Image.fromarray(GREYS.copy()).convert("RGBA"),
    "opaque LA": lambda: Image.fromarray(GREYS.copy()).convert("LA"),
    "palette": lambda: Image.fromarray(GREYS.copy()).convert("P"),
    "CMYK": lambda: Image.fromarray(GREYS.copy()).convert("CMYK"),
    "YCbCr": lambda: Image.fromarray(GREYS.copy()).convert("RGB"),
}
ENDINGS = {"16 bit": ("png", "tif"), "32 bit": ("tif",), "float": ("tif",), "CMYK": ("tif", "jpg"), "YCbCr": ("jpg",)}


@pytest.mark.parametrize(
    ("mode", "ending"), [(mode, ending) for mode in MODES for ending in ENDINGS.get(mode, ("png", "tif"))]
)
def test_a_grey_ramp_of_any_mode_is_read_as_it_looks_or_refused(
    mode: str, ending: str, corpus: Path, here: Path, invoke: Callable[..., Any], refused: Callable[..., str]
) -> None:
    (here / "pics").mkdir()
    MODES[mode]().save(here / "pics" / f"a.{ending}")
    arguments = ("tokens", here / "pics", "-o", here / "t.npz", "--model", corpus / "model", *SPLIT)
    if invoke(*arguments).exit_code != 0:
        assert mode not in ("8 bit", "RGB", "16 bit")
        refused(*arguments, named=(f"a.{ending}",))
        return
    with np.load(here / "t.npz") as made:
        rows = made["tokens"].reshape(4, 4).astype(int)
    assert np.abs(rows - LEVELS).max() <= (ending == "jpg")


def png(width: int, height: int) -> bytes:
    """A small file that says it is a large picture."""

    def part(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(bytes(1000))) + part(b"IEND", b"")


@pytest.mark.parametrize("size", [(20_000, 20_000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (1, 10**9), (0, 0)])
@pytest.mark.parametrize("door", ["tokens", "image", "mask"])
def test_a_picture_above_all_bounds_is_refused(
    door: str, size: tuple[int, int], corpus: Path, here: Path, refused: Callable[..., str]
) -> None:
    (here / "pics").mkdir()
    path = here / "pics" / "huge.png"
    path.write_bytes(png(*size))
    MODES["8 bit"]().save(here / "fine.png")
    image = here / "fine.png" if door == "mask" else path
    arguments: dict[str, tuple[object, ...]] = {
        "tokens": ("tokens", here / "pics", "-o", here / "t.npz", "--model", corpus / "model", *SPLIT),
        "image": ("generate", corpus / "engine", "--labels", 1, "-o", here / "o.png", "--image", image, "--keep", 0.5),
        "mask": ("generate", corpus / "engine", "--labels", 1, "-o", here / "o.png", "--image", image, "--mask", path),
    }
    refused(*arguments[door], named=("huge.png",))


@pytest.mark.parametrize("kind", ["text", "nothing", "half", "folder", "svg", "fifo", "device"])
def test_what_is_no_picture_is_refused(kind: str, corpus: Path, here: Path, refused: Callable[..., str]) -> None:
    path = here / "a.png"
    MODES["8 bit"]().save(here / "whole.png")
    data = (here / "whole.png").read_bytes()
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes({"text": b"picture", "nothing": b"", "half": data[: len(data) // 2], "svg": b"<svg/>"}[kind])
    refused(
        "generate", corpus / "engine", "--labels", 1, "-o", "o.png", "--image", path, "--keep", 0.5, named=("a.png",)
    )


def generated(corpus: Path, here: Path, *options: object) -> tuple[object, ...]:
    """The command line that draws from a picture of 20 x 12 pixels."""
    return ("generate", corpus / "engine", "--labels", 1, "-o", here / "o.png", "--image", here / "image.png", *options)


def test_a_mask_of_another_size_names_both_sizes(corpus: Path, here: Path, refused: Callable[..., str]) -> None:
    Image.new("L", (20, 12)).save(here / "image.png")
    Image.new("L", (12, 20)).save(here / "mask.png")
    line = refused(*generated(corpus, here, "--mask", here / "mask.png"), named=("mask.png",))
    assert all(str(size) in line for size in (20, 12))


def test_the_size_of_a_turned_photograph_is_that_of_what_is_seen(
    corpus: Path, here: Path, refused: Callable[..., str], works: Callable[..., str]
) -> None:
    picture = Image.new("L", (20, 12))
    exif = picture.getexif()
    exif[0x112] = 6  # turned by a quarter
    picture.save(here / "image.png", exif=exif)
    for size, fits in (((12, 20), True), ((20, 12), False)):
        Image.new("L", size, 255).save(here / "mask.png")
        (works if fits else refused)(*generated(corpus, here, "--mask", here / "mask.png"))


def test_a_white_mask_redraws_everything(corpus: Path, here: Path, works: Callable[..., str]) -> None:
    Image.new("L", (16, 16), 99).save(here / "image.png")
    Image.new("L", (16, 16), 255).save(here / "mask.png")
    works(*generated(corpus, here, "--mask", here / "mask.png"))
    works("generate", corpus / "engine", "--labels", 1, "-o", here / "free.png")
    assert (here / "o.png").read_bytes() == (here / "free.png").read_bytes()


@pytest.mark.parametrize("keep", ["nan", "inf", "-inf", "-0.1", "1.1", "1e308", "x", ""])
def test_a_share_that_is_none_is_refused(keep: str, corpus: Path, here: Path, refused: Callable[..., str]) -> None:
    Image.new("L", (16, 16), 99).save(here / "image.png")
    refused(*generated(corpus, here, "--keep", keep), named=("--keep",))
