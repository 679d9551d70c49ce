"""Small coloured pictures, in folders of their classes, for what is trained on pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE = 32  # pixels
COUNT = 40  # of each class


def draw_pictures(folder: Path, seed: int = 0) -> Path:
    """Discs and bars of random colours and places, as PNG files in two subfolders of a new folder."""
    generator = np.random.default_rng(seed)
    for name in ("bars", "discs"):
        (folder / name).mkdir(parents=True)
        for index in range(COUNT):
            ground, colour = (tuple(int(level) for level in generator.integers(256, size=3)) for _ in range(2))
            left, top = (int(place) for place in generator.integers(SIDE // 2, size=2))
            image = Image.new("RGB", (SIDE, SIDE), ground)
            pen = ImageDraw.Draw(image)
            shape = pen.ellipse if name == "discs" else pen.rectangle
            shape((left, top, left + SIDE // 2, top + (SIDE // 2 if name == "discs" else SIDE // 5)), fill=colour)
            image.save(folder / name / f"{index:02}.png")
    return folder
