"""The pictures of docs/applications.md: `python docs/make_applications.py MASKED CAUSAL FOLDER`, of two emoji engines.

Letters: N pictures, H x W pixels, C channels.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import compress
from compress.measure.pictures.images import captioned
from export.runtime.engine import Engine
from export.runtime.sheet import panel

GIVEN = ("panda", "rainbow", "red apple", "house")
SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)
SMALL = 32  # pixels of a side that upscale is given


def psnr(apart: NDArray[np.float64]) -> float:
    """Of differences, dB."""
    return 10 * float(np.log10(255**2 / np.square(apart).mean()))


def resized(pixels: NDArray[np.uint8], side: int, filtered: Image.Resampling) -> NDArray[np.uint8]:
    """A picture at another size."""
    return np.asarray(Image.fromarray(pixels).resize((side, side), filtered))


def vary(models: dict[str, Engine], given: NDArray[np.uint8]) -> list[tuple[str, Image.Image]]:
    """A row a share of tokens that stays, three variations as a fox by each model."""
    found = []
    for name, model in models.items():
        rows = [compress.vary(model, given, keep=keep, label="fox", count=3, threads=1) for keep in SHARES]
        found.append((f"{name}\nkeep {', '.join(f'{keep:g}' for keep in SHARES)}", panel(np.concatenate(rows), 3)))
    return found


def outpaint(models: dict[str, Engine], given: NDArray[np.uint8]) -> list[tuple[str, Image.Image]]:
    """Half of the picture more on all sides by the masked model, to the right and the bottom by the other."""
    masked, causal = models.values()
    wide = compress.outpaint(masked, given, dict.fromkeys(("left", "right", "top", "bottom"), 0.5), count=2, threads=1)
    right = compress.outpaint(causal, given, {"right": 1.0, "bottom": 1.0}, count=2, threads=1)
    return [("given\n64x64", panel(given[None], 1)), ("masked\nall=0.5", panel(wide, 2)),
            ("causal\nright=1,bottom=1", panel(right, 2))]  # fmt: skip


def upscale(masked: Engine, given: dict[str, NDArray[np.uint8]]) -> list[tuple[str, Image.Image]]:
    """Small pictures, enlarged by bicubic interpolation and by the model, and the pictures that they were made of."""
    small = {name: resized(each, SMALL, Image.Resampling.BOX) for name, each in given.items()}
    bicubic = [resized(each, 2 * SMALL, Image.Resampling.BICUBIC) for each in small.values()]
    drawn = [compress.upscale(masked, each, label=name, threads=1)[0] for name, each in small.items()]
    sets = {"bicubic": np.stack(bicubic), "upscale": np.stack(drawn), "original": np.stack([*given.values()])}
    enlarged = np.stack([resized(each, 2 * SMALL, Image.Resampling.NEAREST) for each in small.values()])
    for name in ("bicubic", "upscale"):
        apart = np.subtract(sets[name], sets["original"], dtype=np.float64)
        print(name, *(f"{psnr(each):.1f}" for each in apart), f"all {psnr(apart):.2f} dB")
    return [("32x32", panel(enlarged, 1)), *((name, panel(each, 1)) for name, each in sets.items())]


def main(masked: str, causal: str, folder: str) -> None:
    """Write the three pictures."""
    models = {"emoji-masked": compress.load_engine(masked, threads=1), "emoji": compress.load_engine(causal, threads=1)}
    tokens, own = compress.load_tokens("emoji"), models["emoji-masked"]
    numbers = [own.shape.class_called(name) for name in GIVEN]
    rows = [int(np.flatnonzero(tokens.labels == number)[0]) for number in numbers]
    given = dict(zip(GIVEN, own.decode_images(tokens.tokens[rows]), strict=True))
    for name, sheets in (
        ("vary", vary(models, given["panda"])),
        ("outpaint", outpaint(models, given["rainbow"])),
        ("upscale", upscale(own, given)),
    ):
        captioned(sheets).save(Path(folder) / f"applications-{name}.png", optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
