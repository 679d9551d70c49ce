"""How pictures of another aspect or with transparency are read, with pixels worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.core.settings import InputError
from compress.data.picture_files import fitted, open_picture, size_of
from compress.data.reading import Reading, Tally
from compress.data.tokens import read_picture

BLUE = Reading(background="#0000ff")


def shown(path: Path, reading: Reading = BLUE) -> list:
    return np.asarray(open_picture(path, reading=reading)).tolist()


def test_a_background_stands_behind_transparency_of_every_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [200, 0, 0, 51]]], np.uint8)).save(path)
    assert shown(path) == [[[200, 0, 0], [0, 0, 255], [40, 0, 204]]], "a fifth of red, four fifths of blue"
    Image.fromarray(np.array([[[10, 255], [10, 0]]], np.uint8), "LA").save(path)
    assert shown(path) == [[[10, 10, 10], [0, 0, 255]]]
    assert shown(path, Reading(background="#808080")) == [[10, 128]], "a grey picture on grey stays grey"
    indexed = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    indexed.putpalette([9, 9, 9, 50, 50, 50])
    indexed.save(path, transparency=1)
    assert shown(path) == [[[9, 9, 9], [0, 0, 255]]]
    Image.new("RGB", (1, 1), (1, 2, 3)).save(path, transparency=(1, 2, 3))
    assert shown(path) == [[[0, 0, 255]]]
    Image.fromarray(np.array([[7, 65535]], np.uint16)).save(path, transparency=7)
    assert shown(path) == [[[0, 0, 255], [255, 255, 255]]]


def png(path: Path, colour: int, data: bytes, *chunks: tuple[bytes, bytes]) -> Path:
    """A PNG of one pixel in 16 bits a channel, which Pillow reads but does not write."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"\0" + data)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in parts))
    return path


def test_colours_of_sixteen_bits_are_read_by_their_upper_eight(tmp_path: Path) -> None:
    pixel = bytes.fromhex("80ff 0100 fffe")
    assert shown(png(tmp_path / "a.png", 2, pixel)) == [[[0x80, 0x01, 0xFF]]]
    assert shown(png(tmp_path / "b.png", 6, pixel + b"\0\0")) == [[[0, 0, 255]]]
    assert shown(png(tmp_path / "c.png", 2, pixel, (b"tRNS", pixel))) == [[[0, 0, 255]]]
    assert shown(png(tmp_path / "d.png", 2, pixel, (b"tRNS", bytes(6)))) == [[[0x80, 0x01, 0xFF]]]


def test_pictures_are_cropped_padded_or_stretched(tmp_path: Path) -> None:
    wide = Image.fromarray(np.array([[0, 0, 200, 200, 0, 0, 0, 0]] * 2, np.uint8))
    tally = Tally()
    assert fitted(wide, (2, 4, 1), Reading("crop"), tally)[0, :, 0].tolist() == [200, 200, 0, 0]
    assert fitted(wide, (2, 4, 1), Reading("stretch"))[0, :, 0].tolist() == [0, 200, 0, 0]
    padded = fitted(wide, (4, 4, 1), Reading("pad", "#ffffff"))[..., 0].tolist()
    assert padded == [[255] * 4, [0, 200, 0, 0], [255] * 4, [255] * 4], "a quarter as high, above the centre"
    assert fitted(wide, (4, 4, 3), Reading("pad", "#010203"))[0, 0].tolist() == [1, 2, 3]
    thin = Image.new("L", (1000, 1))
    assert fitted(thin, (8, 8, 1), Reading("pad")).shape == (8, 8, 1), "at least one pixel of it is left"
    assert tally.reshaped == 1


def test_what_was_done_is_said(tmp_path: Path) -> None:
    frames = [Image.new("L", (2, 1), level) for level in (40, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    Image.new("RGBA", (3, 3), (0, 0, 0, 9)).save(tmp_path / "b.png")
    Image.new("RGBA", (3, 3), (0, 0, 0, 255)).save(tmp_path / "c.png")
    tally = Tally()
    assert read_picture(tmp_path / "a.gif", (4, 4, 1), Reading(), tally)[0, 0].tolist() == [40]
    for name in ("b.png", "c.png"):
        read_picture(tmp_path / name, (4, 4, 3), Reading(), tally)
    assert tally.words(Reading(), (4, 4, 3)) == [
        "1 of 3 pictures of another aspect than square: cropped to it around the centre (fit: pad or stretch keeps all "
        "of each)",
        "1 of 3 pictures with transparency: on #ffffff, the background",
        "1 of 3 pictures of several frames: the first is read",
    ]
    assert Tally(3).words(Reading(), (4, 4, 3)) == []
    assert "than 4:2: padded to it with #123456" in Tally(1, 1).words(Reading("pad", "#123456"), (2, 4, 3))[0]


@pytest.mark.parametrize("colour", ["white", "#fff", "#12345g", ""])
def test_what_is_no_colour_is_refused(colour: str) -> None:
    with pytest.raises(ValueError, match=r"background '.*' is not a colour like '#ffffff' or '#1e90ff'"):
        Reading(background=colour)


def test_the_size_is_that_of_the_upright_picture(tmp_path: Path) -> None:
    image = Image.new("L", (3, 2))
    exif = image.getexif()
    image.save(tmp_path / "a.png")
    exif[0x112] = 6
    image.save(tmp_path / "b.png", exif=exif)
    assert (size_of(tmp_path / "a.png"), size_of(tmp_path / "b.png")) == ((3, 2), (2, 3))
    (tmp_path / "c.png").write_text("no picture")
    with pytest.raises(InputError, match=r"c\.png: not a readable picture; known are"):
        size_of(tmp_path / "c.png")
