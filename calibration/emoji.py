"""The Noto colour emoji as pictures with classes: a glyph's class is its name, or the Unicode subgroup it is in.

The pictures are the font's bitmaps; names and subgroups are those of Unicode's list of emoji. Both are read from where
Debian's packages `fonts-noto-color-emoji` (SIL Open Font License) and `unicode-data` put them, and only to train: a
trained model needs neither.

An emoji of several skin tones is one name with several variants. Parts are made of whole names: of every sixteen names
in Unicode's order one is held out with all its variants and one is for validation, and of the names in training every
sixteenth variant is held out too. A held-out name has no class of its own, so its class is its subgroup.

Letters: N pictures, S side of a picture.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features

from calibration.tokens import PARTS, Part

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
LIST = Path("/usr/share/unicode/emoji/emoji-test.txt")
PACKAGES = "fonts-noto-color-emoji and unicode-data"
FONT_SIZE = 109  # of the bitmaps, the only size that the font has
BITMAP = (136, 128)  # width and height of each
SIDE = 64  # of a picture
DOUBLE = 2 * SIDE  # pictures are kept at twice their size, so that moving them a little loses nothing
EVERY = 16  # one name, or variant, of so many is held out
ENTRY = re.compile(r"([0-9A-F ]+?) *; fully-qualified +# \S+ E[0-9.]+ (.+)")
SUBGROUP = "subgroup: "  # before the class of a subgroup: some names are a subgroup's too


@dataclass(frozen=True)
class Glyph:
    """One emoji: its text, its name without skin tones, its group and subgroup, and the part it belongs to."""

    text: str
    name: str
    group: str
    subgroup: str
    part: Part


def without_tones(name: str) -> str:
    """An emoji's name without its skin tones: 'man: light skin tone, beard' is 'man: beard'."""
    first, _, rest = name.partition(": ")
    kept = [word for word in rest.split(", ") if word and not word.endswith("skin tone")]
    return f"{first}: {', '.join(kept)}" if kept else first


@cache
def glyphs() -> tuple[Glyph, ...]:
    """Every fully-qualified emoji, in Unicode's order.

    Raises:
        ValueError: the list is not installed.
    """
    if not LIST.is_file():
        raise ValueError(f"emoji: {LIST} is missing; install Debian's packages {PACKAGES}")
    numbers: dict[str, int] = {}  # of names, in order
    variants: dict[str, int] = {}
    found, group, subgroup = [], "", ""
    for line in LIST.read_text(encoding="utf-8").splitlines():
        if line.startswith("# group: "):
            group = line.removeprefix("# group: ").strip()
        elif line.startswith("# subgroup: "):
            subgroup = line.removeprefix("# subgroup: ").strip()
        elif entry := ENTRY.fullmatch(line):
            name = without_tones(entry[2].strip())
            number = numbers.setdefault(name, len(numbers))
            variant = variants[name] = variants.get(name, -1) + 1
            text = "".join(chr(int(code, 16)) for code in entry[1].split())
            found.append(Glyph(text, name, group, subgroup, part_of(number, variant)))
    return tuple(found)


def part_of(number: int, variant: int) -> Part:
    """The part of a name's variant, by the two numbers."""
    of_name: dict[int, Part] = {EVERY // 2 - 1: "held_out", EVERY - 1: "validation"}
    if (part := of_name.get(number % EVERY)) is not None:
        return part
    return "held_out" if variant and (number + variant) % EVERY == 0 else "train"


@cache
def classes() -> tuple[str, ...]:
    """Every class: the subgroups, then the names that are trained on."""
    subgroups = dict.fromkeys(f"{SUBGROUP}{glyph.subgroup}" for glyph in glyphs())
    return (*subgroups, *dict.fromkeys(glyph.name for glyph in glyphs() if glyph.part == "train"))


@cache
def labels() -> NDArray[np.int64]:
    """The classes (N, 2) of each glyph's subgroup and name; the subgroup twice where the name has no class."""
    numbers = {name: number for number, name in enumerate(classes())}
    of_subgroups = [numbers[f"{SUBGROUP}{glyph.subgroup}"] for glyph in glyphs()]
    of_names = [numbers.get(glyph.name, own) for glyph, own in zip(glyphs(), of_subgroups, strict=True)]
    return np.array([of_subgroups, of_names], dtype=np.int64).T


@cache
def pictures() -> NDArray[np.uint8]:
    """Every glyph (N, 2 S, 2 S, 3) on white, in order; read-only, for it is kept (180 MB).

    Raises:
        ValueError: the font is not installed, or Pillow cannot join the characters of one emoji.
    """
    if not FONT.is_file():
        raise ValueError(f"emoji: {FONT} is missing; install Debian's packages {PACKAGES}")
    if not features.check("raqm"):
        raise ValueError("emoji: this Pillow is built without Raqm, which joins characters; install Pillow's own wheel")
    font = ImageFont.truetype(FONT, FONT_SIZE, layout_engine=ImageFont.Layout.RAQM)
    found = np.empty((len(glyphs()), DOUBLE, DOUBLE, 3), dtype=np.uint8)
    for number, glyph in enumerate(glyphs()):
        square = Image.new("RGB", (BITMAP[0], BITMAP[0]), "white")
        ImageDraw.Draw(square).text((0, (BITMAP[0] - BITMAP[1]) // 2), glyph.text, font=font, embedded_color=True)
        found[number] = np.asarray(square.resize((DOUBLE, DOUBLE), Image.Resampling.LANCZOS))
    found.flags.writeable = False
    return found


def chosen(part: Part) -> NDArray[np.int64]:
    """The numbers of a part's glyphs."""
    assert part in PARTS
    return np.array([number for number, glyph in enumerate(glyphs()) if glyph.part == part], dtype=np.int64)


def emoji_pictures(part: Part, count: int | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures (N, S, S, 3) of one part, as they are, with their classes (N,); each first with the class of its name.

    A glyph whose name has a class comes twice: the second time its class is its subgroup. `count` takes so many, evenly
    spread.

    Raises:
        ValueError: the part has fewer, or what it is made of is not installed.
    """
    numbers = chosen(part)
    twice = numbers[labels()[numbers, 0] != labels()[numbers, 1]]
    rows, columns = np.concatenate([numbers, twice]), np.repeat([1, 0], [len(numbers), len(twice)])
    if count is not None:
        if count > len(rows):
            raise ValueError(f"{count} {part} emoji are asked for, but there are {len(rows)}")
        even = np.linspace(0, len(rows) - 1, count).round().astype(np.int64)
        rows, columns = rows[even], columns[even]
    return whole(rows), labels()[rows, columns]


def whole(numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The pictures (N, S, S, 3) of these glyphs as they are."""
    halved = pictures()[numbers].reshape(len(numbers), SIDE, 2, SIDE, 2, 3).mean(axis=(2, 4))
    found: NDArray[np.uint8] = np.rint(halved).astype(np.uint8)
    return found


def mirrorable(glyph: Glyph) -> bool:
    """Whether the mirrored glyph is still what its name says: no text, flag, arrow, and nothing with a side."""
    sided = re.search(r"\b(left|right|leftwards|rightwards|clockwise|o’clock|thirty|quarter)\b", glyph.name)
    return glyph.group not in ("Flags", "Symbols") and not sided
