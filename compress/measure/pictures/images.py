"""Pictures on disk: reference beside engine with the same seeds, and both as sheets laid out alike.

Letters: N pictures, H x W pixels, C channels (1 or 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from compress.core.settings import setting
from export.runtime.sheet import GAP, panel

PANEL_GAP = 28
FONT_SIZE = 18
TITLE_HEIGHT = 32  # of a caption of one line
LINE_HEIGHT = 24  # of each further one
CAPTION_WIDTH = 240  # pixels of a line, at least, before it is wrapped: sheets of one picture are narrow
INK, PAPER = (24, 24, 24), (255, 255, 255)


@dataclass(frozen=True)
class Sheet:
    """Pictures of the reference and of an engine, of the same classes and seeds: two files laid out alike."""

    engine: str = setting(doc="the engine's name")
    reference: str = setting(doc="file of the reference's pictures, relative to the report")
    drawn: str = setting(doc="file of the engine's pictures, relative to the report")
    pictures: int = setting(doc="pictures on each", low=1)
    columns: int = setting(doc="pictures in a row", low=1)
    seed: int = setting(doc="seed of both", low=0)
    labels: tuple[int, ...] = setting((), doc="class of each picture, row by row; empty of models without classes")


def save_pair(
    reference: NDArray[np.uint8],
    candidate: NDArray[np.uint8],
    labels: NDArray[np.int64],
    path: Path,
    *,
    names: tuple[str, str] = ("reference", "engine"),
    columns: int = 6,
    difference: bool = False,
) -> None:
    """Write two sets of pictures (N, H, W, C) of the same classes (N,) and seeds side by side as one PNG.

    A row is a class, at most `columns` pictures of it from each set in the same order; `difference` adds a panel of
    absolute differences, white where they are equal.

    Raises:
        ValueError: the sets are not of the same shape, or the labels not as many.
    """
    if reference.shape != candidate.shape or len(labels) != len(reference):
        raise ValueError(f"pictures {reference.shape} and {candidate.shape} with {len(labels)} labels do not pair up")
    classes = np.unique(labels)
    rows = [np.flatnonzero(labels == label)[:columns] for label in classes]
    width = max(len(row) for row in rows)
    panels = [(names[0], reference), (names[1], candidate)]
    if difference:
        apart = np.abs(reference.astype(np.int16) - candidate).astype(np.uint8)
        panels.append(("difference", 255 - apart))
    blank = np.full(reference.shape[1:], 255, dtype=np.uint8)

    def laid_out(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.stack([images[row[i]] if i < len(row) else blank for row in rows for i in range(width)])

    sheets = [(name, panel(laid_out(images), width)) for name, images in panels]
    font = ImageFont.load_default(FONT_SIZE)
    margin = GAP * 3 + max(int(font.getlength(str(label))) for label in classes)
    canvas = captioned(sheets, margin)
    draw = ImageDraw.Draw(canvas)
    high = sheets[0][1].height
    top, step = canvas.height - GAP - high, (high - GAP) / len(classes)
    for i, label in enumerate(classes):
        draw.text((margin - GAP, top + GAP / 2 + step * (i + 0.5)), str(label), INK, font, anchor="rm")
    canvas.save(path, format="PNG")


def captioned(sheets: Sequence[tuple[str, Image.Image]], margin: int = GAP) -> Image.Image:
    """Sheets side by side, each below its caption of one or more lines, behind a margin on the left.

    A line that is wider than its sheet, and than `CAPTION_WIDTH`, goes on in the next one; a word that is wider makes
    room for itself.
    """
    font = ImageFont.load_default(FONT_SIZE)
    captions = [wrapped(caption, max(sheet.width, CAPTION_WIDTH), font) for caption, sheet in sheets]
    title = TITLE_HEIGHT + LINE_HEIGHT * (max(map(len, captions)) - 1)
    slots = [
        max(sheet.width, *(math.ceil(font.getlength(line)) for line in lines))
        for lines, (_, sheet) in zip(captions, sheets, strict=True)
    ]
    width = margin + sum(slots) + PANEL_GAP * (len(slots) - 1) + GAP
    canvas = Image.new("RGB", (width, title + max(sheet.height for _, sheet in sheets) + GAP), PAPER)
    draw, left = ImageDraw.Draw(canvas), margin
    for lines, slot, (_, sheet) in zip(captions, slots, sheets, strict=True):
        for number, line in enumerate(lines):
            place = (left + slot / 2, TITLE_HEIGHT / 2 + LINE_HEIGHT * number)
            draw.text(place, line, INK, font, anchor="mm")
        canvas.paste(sheet, (left + (slot - sheet.width) // 2, title))
        left += slot + PANEL_GAP
    return canvas


def wrapped(caption: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """The lines of a caption, each of as many words as fit into so many pixels, at least one."""
    found = []
    for line in caption.splitlines() or [""]:
        found.append("")
        for word in line.split(" "):
            longer = f"{found[-1]} {word}".strip()
            if found[-1] and font.getlength(longer) > width:
                found.append(word)
            else:
                found[-1] = longer
    return found
