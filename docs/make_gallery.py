"""The picture of docs/gallery.md from the folder of a run of `balanced`: `python docs/make_gallery.py RUN OUTPUT.png`.

Letters: N pictures, H x W pixels, C channels.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.measure.pictures.images import captioned
from export.runtime.sheet import GAP, panel

COLUMNS, SIDE = 5, 64  # of the sheets that a run writes of `emoji`


def pictures(sheet: Path) -> NDArray[np.uint8]:
    """The pictures (N, H, W, C) of a sheet, without its frame."""
    pixels = np.asarray(Image.open(sheet).convert("RGB"))
    starts = [range(GAP, length - SIDE, SIDE + GAP) for length in pixels.shape[:2]]
    return np.stack([pixels[top : top + SIDE, left : left + SIDE] for top in starts[0] for left in starts[1]])


def main(run: Path, output: Path) -> None:
    """Write reference, engine and difference (white where they are equal) side by side, and say how far each is off."""
    theirs, own = (pictures(run / f"pictures-cpu-{name}.png") for name in ("reference", "engine"))
    apart = np.subtract(theirs, own, dtype=np.float64)
    sets = {"reference": theirs, "engine": own, "difference": 255 - np.abs(apart).astype(np.uint8)}
    captioned([(name, panel(each, COLUMNS)) for name, each in sets.items()]).save(output, optimize=True)
    errors = np.square(apart).mean(axis=(1, 2, 3))
    print("dB PSNR:", *(f"{10 * np.log10(255**2 / error):.1f}" if error else "equal" for error in errors))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
