"""Pictures of every mode, as a viewer shows them; what has no known black and white is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compress.core.settings import InputError
from compress.data.picture_files import fitted, open_picture

RAMP = np.array([[0, 64], [128, 255]], dtype=np.uint8)


def saved(path: Path, array: Any, mode: str | None = None, **options: Any) -> Path:
    """An array as a picture file."""
    (array if isinstance(array, Image.Image) else Image.fromarray(array, mode)).save(path, **options)
    return path


def grey(path: Path) -> list[list[int]]:
    """What is read of a picture, in grey."""
    return np.asarray(open_picture(path).convert("L")).tolist()


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bits_are_scaled_to_eight(tmp_path: Path, ending: str) -> None:
    path = saved(tmp_path / f"a.{ending}", RAMP.astype(np.uint16) * 257)
    assert grey(path) == RAMP.tolist()
    path = saved(tmp_path / f"b.{ending}", np.array([[128, 129, 32767, 32896]], np.uint16))
    assert grey(path) == [[0, 1, 127, 128]], "each is the nearest of 0, 257, 514 ..."


def test_big_endian_sixteen_bits_are_read(tmp_path: Path) -> None:
    image = Image.frombytes("I;16B", (2, 2), (RAMP.astype(">u2") * 257).tobytes())
    assert grey(saved(tmp_path / "a.tif", image)) == RAMP.tolist()


def test_a_portable_greymap_of_sixteen_bits_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 2 2 65535\n" + (RAMP.astype(">u2") * 257).tobytes())
    assert grey(tmp_path / "a.pgm") == RAMP.tolist()


def test_floats_from_0_to_1_are_read_and_others_refused(tmp_path: Path) -> None:
    assert grey(saved(tmp_path / "a.tif", (RAMP / 255).astype(np.float32))) == RAMP.tolist()
    for harm in (RAMP.astype(np.float32), np.full((2, 2), np.nan, np.float32), -RAMP.astype(np.float32)):
        path = saved(tmp_path / "b.tif", harm)
        with pytest.raises(InputError, match=r"b\.tif: holds floats from .* \(mode F\); only 0 to 1 are read"):
            open_picture(path)


def tiff(path: Path, bits: int, photometric: int, data: bytes) -> Path:
    """A grey TIFF of 2 x 2 pixels."""
    entries = {256: 2, 257: 2, 258: bits, 259: 1, 262: photometric, 273: 200, 277: 1, 278: 2, 279: len(data)}
    tags = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in entries.items())
    content = b"II*\0" + struct.pack("<IH", 8, len(entries)) + tags + struct.pack("<I", 0)
    path.write_bytes(content.ljust(200, b"\0") + data)
    return path


def test_tiff_of_twelve_bits_and_of_white_as_zero_is_read(tmp_path: Path) -> None:
    assert grey(tiff(tmp_path / "a.tif", 12, 1, bytes.fromhex("000fff fff000"))) == [[0, 255], [255, 0]]
    data = (RAMP.astype("<u2") * 257).tobytes()
    assert grey(tiff(tmp_path / "b.tif", 16, 1, data)) == RAMP.tolist()
    assert grey(tiff(tmp_path / "c.tif", 16, 0, data)) == (255 - RAMP).tolist()


@pytest.mark.parametrize(
    ("image", "mode"),
    [
        (Image.fromarray(RAMP.astype(np.int32) * 257), "I"),
        (Image.new("LAB", (2, 2)), "LAB"),
    ],
)
def test_modes_without_a_known_white_are_named(tmp_path: Path, image: Image.Image, mode: str) -> None:
    path = saved(tmp_path / "a.tif", image)
    with pytest.raises(InputError, match=rf"a\.tif: pictures of mode {mode} are not read; save it as RGB or grey"):
        open_picture(path)


def test_what_is_transparent_shows_white(tmp_path: Path) -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 0], pixels[0, :, 3] = 200, (255, 0, 128)  # a red, opaque, gone, and half of it
    path = saved(tmp_path / "rgba.png", pixels)
    assert np.asarray(open_picture(path)).tolist() == [[[200, 0, 0], [255, 255, 255], [227, 127, 127]]]
    assert grey(saved(tmp_path / "la.png", np.array([[[10, 255], [10, 0]]], np.uint8))) == [[10, 255]]
    indexed = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    indexed.putpalette([9, 9, 9, 50, 50, 50])
    assert grey(saved(tmp_path / "p.png", indexed, transparency=1)) == [[9, 255]]
    assert grey(saved(tmp_path / "p2.png", indexed)) == [[9, 50]]
    assert grey(saved(tmp_path / "l.png", np.array([[7, 8]], np.uint8), transparency=7)) == [[255, 8]]
    with pytest.raises(InputError, match=r"rgba\.png: has transparent pixels; a mask is black and white"):
        open_picture(path, opaque=True)
    sixteen = saved(tmp_path / "i.png", np.array([[7, 8]], np.uint16), transparency=7)
    assert grey(sixteen) == [[255, 0]], "7 is transparent, and 8 of 65,535 is black"


def test_other_modes_of_eight_bits_become_grey_or_colour(tmp_path: Path) -> None:
    assert grey(saved(tmp_path / "1.png", Image.fromarray(RAMP > 100))) == [[0, 0], [255, 255]]
    cmyk = saved(tmp_path / "cmyk.tif", Image.new("CMYK", (1, 1), (0, 255, 255, 0)))
    assert np.asarray(open_picture(cmyk)).tolist() == [[[255, 0, 0]]]
    frames = [Image.new("L", (2, 1), level) for level in (40, 200)]
    assert grey(saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])) == [[40, 40]]


@pytest.mark.parametrize(
    ("orientation", "seen"),
    [
        (1, [[1, 2, 3], [4, 5, 6]]),
        (2, [[3, 2, 1], [6, 5, 4]]),
        (3, [[6, 5, 4], [3, 2, 1]]),
        (4, [[4, 5, 6], [1, 2, 3]]),
        (5, [[1, 4], [2, 5], [3, 6]]),
        (6, [[4, 1], [5, 2], [6, 3]]),
        (7, [[6, 3], [5, 2], [4, 1]]),
        (8, [[3, 6], [2, 5], [1, 4]]),
    ],
)
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_picture_is_upright(tmp_path: Path, orientation: int, seen: list[list[int]], kind: type) -> None:
    image = Image.fromarray(np.array([[1, 2, 3], [4, 5, 6]], kind) * kind(257 if kind is np.uint16 else 1))
    exif = image.getexif()
    exif[0x112] = orientation
    assert grey(saved(tmp_path / "a.png", image, exif=exif)) == seen


def bomb(path: Path, side: int) -> Path:
    """A PNG that says it has side x side pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")))
    return path


@pytest.mark.parametrize("side", [13_500, 40_000])
def test_too_many_pixels_are_refused_before_they_are_read(tmp_path: Path, side: int) -> None:
    with pytest.raises(InputError, match=r"a\.png: has more than 178 million pixels, the most that are read"):
        open_picture(bomb(tmp_path / "a.png", side))


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match=r"text\.png: not a readable picture; known are PNG, JPEG, "):
        open_picture(tmp_path / "text.png")
    whole = saved(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:2000])
    with pytest.raises(InputError, match=r"cut\.png: not a readable picture \(.*truncated"):
        open_picture(tmp_path / "cut.png")
    (tmp_path / "a.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(InputError, match="not a readable picture; known are"):
        open_picture(tmp_path / "a.eps")  # no interpreter is started
    with pytest.raises(InputError, match="is a pipe or a device, not a regular file"):
        open_picture(Path("/dev/zero"))


def test_any_bytes_are_a_picture_or_one_line(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    pixels = generator.integers(0, 256, (16, 16, 3), np.uint8)
    for ending in ("png", "jpg", "gif", "bmp", "webp", "tif", "ppm", "jp2"):
        whole = bytearray(saved(tmp_path / f"a.{ending}", pixels).read_bytes())
        for _ in range(40):
            harmed = bytearray(whole)
            for place in generator.integers(0, len(whole), 4):
                harmed[place] = generator.integers(0, 256)
            (tmp_path / "b").write_bytes(harmed)
            try:
                assert open_picture(tmp_path / "b").mode in ("L", "RGB")
            except InputError as error:
                assert "\n" not in str(error)  # noqa: PT017


def test_a_picture_is_cropped_around_its_centre(tmp_path: Path) -> None:
    wide = np.zeros((2, 6), np.uint8)
    wide[:, 2:4] = 255
    image = open_picture(saved(tmp_path / "a.png", wide))
    assert fitted(image, (2, 2, 1))[..., 0].tolist() == [[255, 255], [255, 255]]
    assert fitted(image, (2, 2, 3)).shape == (2, 2, 3)
