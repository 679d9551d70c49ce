"""Pictures as files of their own: formats, names that tell what was drawn, and metadata that says by what.

Letters: N pictures, H x W pixels, C channels (1 or 3).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from . import VERSION
from .errors import shown
from .options import FORMATS
from .sampling import Sampler
from .shape import Shape

ENDINGS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
ENDING_OF = dict(zip(FORMATS, (".png", ".jpg", ".webp"), strict=True))  # as a format is asked for
HOW: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},  # colour at full resolution: pictures are small
    "WEBP": {"lossless": True},
}
DESCRIPTION, SOFTWARE = 0x010E, 0x0131  # tags of EXIF
PLACES = ("index", "label", "name", "seed")  # that the pattern of a name may hold
WITH_CLASS, WITHOUT = "{index:04}-{name}-seed{seed}", "{index:04}-seed{seed}"
UNSAFE = re.compile(r"[^\w.-]+")
LONGEST = 80  # letters of a class in a file's name, of which a file system takes 255 bytes
NO_CLASS = "unconditional"


@dataclass(frozen=True)
class Facts:
    """What pictures were drawn by: labels (N,), the seed, the sampler, and what drew them.

    `engine` is the SHA-256 of the engine's manifest, which has the hash of each of its files, or the name of a model in
    PyTorch. Picture i of the labels has the noise of picture i of the seed. `more` is what else is said of all of them.
    """

    shape: Shape
    sampler: Sampler
    seed: int
    labels: NDArray[np.int64]
    engine: str
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def classed(self) -> bool:
        """Whether labels say anything."""
        return self.shape.classes > 0 and self.shape.text is None

    @property
    def by(self) -> dict[str, Any]:
        """What is the same for all of them."""
        return {"seed": self.seed, "engine": self.engine, "sampler": asdict(self.sampler), **self.more}

    def of(self, index: int) -> dict[str, Any]:
        """Those of one picture."""
        label = int(self.labels[index])
        said = {"label": label, "class": self.shape.class_name(label)} if self.classed else {}
        return {"index": index, **said, **self.by}

    def of_all(self) -> dict[str, Any]:
        """Those of a sheet."""
        labels = [int(label) for label in self.labels]
        said = {"labels": labels, "classes": [self.shape.class_name(label) for label in labels]} if self.classed else {}
        return {"pictures": len(labels), **said, **self.by}


def file_names(pattern: str | None, kind: str | None, facts: Facts) -> list[str]:
    """The name of each picture's file, from a pattern such as ``{name}-{index:03}.webp``.

    The ending says the format; where there is none it is that of the `kind`, PNG by default.

    Raises:
        ValueError: the pattern cannot be filled in, or two pictures have one name.
    """
    check_pattern(pattern, kind)
    pattern = pattern or (WITH_CLASS if facts.classed else WITHOUT)
    if Path(pattern).suffix.lower() not in ENDINGS:
        pattern += ENDING_OF[kind or "png"]
    seen: dict[str, int] = {}
    for index, label in enumerate(facts.labels.tolist()):
        called = UNSAFE.sub("_", facts.shape.class_name(label) or NO_CLASS)[:LONGEST]
        name = pattern.format(index=index, label=label, name=called, seed=facts.seed)
        if name in seen:
            raise ValueError(
                f"--name: pictures {seen[name]} and {index} would both be {shown(name)}; {{index}} tells them apart"
            )
        seen[name] = index
    return list(seen)


def check_pattern(pattern: str | None, kind: str | None) -> None:
    """Refuse a pattern that names no files of a folder, whatever is drawn.

    Raises:
        ValueError: says why.
    """
    if pattern is None:
        return
    try:
        for _, place, _, _ in Formatter().parse(pattern):
            if place is not None and place not in PLACES:
                raise ValueError(f"{{{place}}} is none of {', '.join(f'{{{each}}}' for each in PLACES)}")
        name = pattern.format(index=0, label=0, name="a", seed=0)
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(f"--name {shown(pattern)}: {error}") from None
    if not name or name.startswith(".") or any(letter in name for letter in "/\\\0"):
        raise ValueError(f"--name {shown(pattern)}: is no name of a file; folders are given by --out-dir")
    ending = Path(name).suffix.lower()
    if kind is not None and ending in ENDINGS and ENDINGS[ending] != ENDINGS[ENDING_OF[kind]]:
        raise ValueError(f"--format {kind}: --name {shown(pattern)} ends with {ending}; leave one of both out")


def save_each(images: NDArray[np.uint8], folder: Path, names: Sequence[str], facts: Facts) -> None:
    """Write pictures (N, H, W, C) into a folder, which is made if it is not there; files of these names are replaced.

    Raises:
        OSError: the folder or a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for index, (image, name) in enumerate(zip(images, names, strict=True)):
        pixels = image[..., 0] if image.shape[-1] == 1 else image
        save_image(Image.fromarray(pixels), folder / name, facts.of(index))


def save_image(image: Image.Image, path: Path, said: dict[str, Any] | None = None) -> None:
    """Write a picture in the format that its name ends with, else PNG, and what is `said` of it beside the pixels.

    PNG has a text (tEXt, or iTXt where Latin-1 does not do) for each; JPEG and WebP have all of it as JSON in EXIF's
    ImageDescription. Keys that are not text are JSON.

    Raises:
        OSError: it cannot be written; the file is named.
    """
    kind = ENDINGS.get(path.suffix.lower(), "PNG")
    more: dict[str, Any] = {}
    if said is not None:
        more = {"pnginfo": texts(said)} if kind == "PNG" else {"exif": exif(said)}
    try:
        image.save(path, format=kind, **HOW[kind], **more)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say of which file
        raise


def texts(said: dict[str, Any]) -> PngInfo:
    """As texts of a PNG."""
    made = PngInfo()
    for name, value in said.items():
        made.add_text(name, value if isinstance(value, str) else json.dumps(value))
    made.add_text("Software", software())
    return made


def exif(said: dict[str, Any]) -> Image.Exif:
    """As EXIF, whose texts are ASCII."""
    made = Image.Exif()
    made[DESCRIPTION], made[SOFTWARE] = json.dumps(said), software()
    return made


def software() -> str:
    """What wrote a file."""
    return f"image-token-engine {VERSION}"
