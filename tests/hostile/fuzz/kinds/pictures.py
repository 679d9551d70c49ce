"""Pictures of `tokens` and of `generate --image`: their modes and formats, and bytes."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from fuzz import blobs
from fuzz.case import Case

# Four columns of grey as each mode holds them; the tiny model reads the levels 2, 6, 10, 14 of 0 to 16.
GREYS = np.repeat(np.array([32, 96, 160, 224], np.uint8), 4)
LEVELS = [2, 6, 10, 14]
ENDINGS = {"L": ("png", "bmp", "tif", "webp", "gif", "jpg"), "RGB": ("png", "bmp", "tif", "jpg"), "P": ("png", "gif"),
           "RGBA": ("png", "tif"), "LA": ("png",), "I;16": ("png", "tif"), "I": ("tif",), "F": ("tif",),
           "CMYK": ("tif", "jpg")}  # fmt: skip


def mutate(random: Random, corpus: Path, room: Path) -> Case:
    """A picture of some mode and format, whole or with a change."""
    mode = random.choice(sorted(ENDINGS))
    ending = random.choice(ENDINGS[mode])
    folder = room / "pictures"
    folder.mkdir()
    path = folder / f"picture.{ending}"
    ramp(mode).save(path)
    said, after, wrong = f"{mode} as {ending}", None, ""
    how = random.choice(("whole", "bytes", "bytes", "bytes", "huge"))
    if how == "bytes":
        data, what = blobs.change(path.read_bytes(), random)
        path.write_bytes(data)
        said += f", {what}"
        wrong = "a cut picture was taken" if what.startswith("cut") and len(data) < 40 else ""
    elif how == "huge":
        path = folder / "picture.png"
        side = random.choice((15_000, 60_000, 2**31 - 1))
        path.write_bytes(huge_png(side))
        said, wrong = f"a PNG of {side} x {side}", "a picture above all bounds was taken" if side > 20_000 else ""
    if random.random() < 0.7 or how == "whole":
        after = as_the_ramp if how == "whole" else None
        split = ("--held-out", "0", "--validation", "0")
        arguments = ("tokens", str(folder), "-o", "t.npz", "--model", str(corpus / "model"), *split)
    else:
        option = random.choice((("--keep", "0.5"), ("--mask", str(path))))
        arguments = ("generate", str(corpus / "engine"), "--labels", "1", "-o", "drawn.png", "--image",
        str(path), *option,
                     "--threads", "1")  # fmt: skip
    return Case(arguments, said, wrong, named="picture", after=after)


def ramp(mode: str) -> Image.Image:
    """16 x 16 pixels, dark on the left, in this mode."""
    grey = np.broadcast_to(GREYS, (16, 16))
    if mode == "I;16":
        return Image.fromarray(grey.astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(grey.astype(np.int32) * 257)
    if mode == "F":
        return Image.fromarray(grey.astype(np.float32) / 255)
    return Image.fromarray(np.ascontiguousarray(grey)).convert(mode)


def as_the_ramp(output: str) -> str:
    """Whether the written tokens are those of the ramp, of a lossy format within a level."""
    with np.load("t.npz") as made:
        tokens = made["tokens"].reshape(4, 4).astype(int)
    off = int(np.abs(tokens - np.array(LEVELS)).max())
    return "" if off <= 1 else f"the tokens of a picture are {tokens[0].tolist()}, not {LEVELS}"


def huge_png(side: int) -> bytes:
    """A small file that says it is a large picture."""

    def part(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(bytes(10**6))) + part(b"IEND", b"")
    )
