"""Pictures from disk as a viewer shows them: upright, in 8 bits, opaque; the one place that opens a user's picture.

Letters: H x W pixels, C colour channels.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from compress.core.settings import InputError, cut
from compress.core.user_files import opened
from compress.data.reading import AS_USUAL, Reading, Tally

FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000")
MOST_PIXELS = 178_956_970  # Pillow's own limit; three bytes each are 0.5 GiB
WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
AS_THEY_ARE = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
OPAQUE = 255  # of an alpha channel
REASON = 100  # characters of a decoder's own words
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # tags of TIFF
ORIENTATION, SIDEWAYS = 0x112, range(5, 9)  # of EXIF, and where width and height change places


def open_picture(
    path: Path, opaque: bool = False, reading: Reading = AS_USUAL, tally: Tally | None = None
) -> Image.Image:
    """A picture file, upright by its EXIF orientation, in mode L or RGB; `tally` counts what was done to it.

    Sixteen bits are scaled to eight, and floats from 0 to 1 too. What is transparent shows the background of `reading`
    behind it; with `opaque` it is refused. Of several pictures in a file the first is read; colour profiles are not
    applied.

    Raises:
        InputError: it is no picture, too large, cut off, or of numbers whose black and white are not known.
    """
    with decoded(path) as image:
        behind = Behind(reading, transparent_value(image), opaque)
        made = eight_bits(ImageOps.exif_transpose(image), image, path, behind)
        if tally is not None:
            tally.pictures += 1
            tally.transparent += behind.seen
            with contextlib.suppress(Exception):  # of frames that are not read
                tally.animated += bool(getattr(image, "is_animated", False))
        return made


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a picture file as it is shown, from its header alone.

    Raises:
        InputError: as `open_picture`, as far as the header says it.
    """
    with decoded(path) as image:
        turned = image.getexif().get(ORIENTATION, 1) in SIDEWAYS
        return (image.height, image.width) if turned else image.size


@contextlib.contextmanager
def decoded(path: Path) -> Iterator[Image.Image]:
    """A picture file, open; what decoders raise inside of the `with` is one line.

    Raises:
        InputError: it is no picture, or too large.
    """
    with opened(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of size, which the limit decides, and of damaged EXIF
        try:
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise too_large(path)
                yield image
        except InputError:
            raise
        except Image.DecompressionBombError:
            raise too_large(path) from None
        except UnidentifiedImageError:
            raise InputError(f"{path}: not a readable picture; known are {', '.join(FORMATS)}") from None
        except Exception as error:  # decoders of damaged bytes raise whatever comes
            raise InputError(f"{path}: not a readable picture ({cut(str(error), REASON)})") from error


@dataclass
class Behind:
    """What stands behind transparent pixels: the background of `reading`, or a refusal where they are `opaque`."""

    reading: Reading
    key: int | tuple[int, ...] | bytes | None  # the value that is transparent, where there is no channel that says it
    opaque: bool
    seen: bool = False  # whether there were some

    def show(self, image: Image.Image, covered: Image.Image, path: Path) -> Image.Image:
        """A picture in L or RGB on the background, as far as a mask in L covers it.

        Raises:
            InputError: it has to be opaque and is not.
        """
        self.seen = bool((np.asarray(covered) < OPAQUE).any())
        if not self.seen:
            return image
        if self.opaque:
            raise InputError(f"{path}: has transparent pixels; a mask is black and white")
        if image.mode == "L" and not self.reading.grey:
            image = image.convert("RGB")
        colour = self.reading.colour[0] if image.mode == "L" else self.reading.colour
        return Image.composite(image, Image.new(image.mode, image.size, colour), covered)


def too_large(path: Path) -> InputError:
    """The refusal of a picture of too many pixels."""
    return InputError(f"{path}: has more than {MOST_PIXELS // 10**6} million pixels, the most that are read")


def transparent_value(image: Image.Image) -> int | tuple[int, ...] | bytes | None:
    """The value that a file without an alpha channel calls transparent, before it is decoded.

    Of three channels in 16 bits Pillow keeps the upper eight of each, but gives this value whole.
    """
    key: int | tuple[int, ...] | bytes | None = image.info.get("transparency")
    if isinstance(key, tuple) and any("16" in str(tile[3]) for tile in getattr(image, "tile", ())):
        return tuple(each >> 8 for each in key)
    return key


def eight_bits(image: Image.Image, source: Image.Image, path: Path, behind: Behind) -> Image.Image:
    """A picture of any mode in mode L or RGB; `source` is what the file holds, before it was turned.

    Raises:
        InputError: the mode is named.
    """
    if image.mode in WITH_ALPHA:
        grey = image.mode.lower().startswith("la")
        colours = image.convert("RGBA")
        return behind.show(colours.convert("L" if grey else "RGB"), colours.getchannel("A"), path)
    if image.mode in AS_THEY_ARE:
        if behind.key is None:
            return image.convert("L" if image.mode in ("1", "L") else "RGB")
        image.info["transparency"] = behind.key
        colours = image.convert("RGBA")
        flat = colours.convert("L" if image.mode in ("1", "L") else "RGB")
        return behind.show(flat, colours.getchannel("A"), path)
    if image.mode.startswith("I;16") or (image.mode == "I" and source.format in ("PNG", "PPM")):
        values = np.asarray(image)
        made = scaled(values.astype(np.float64), 2 ** bits_of(source) - 1, source)
        if behind.key is None:
            return made
        covered = np.where(values == behind.key, 0, OPAQUE).astype(np.uint8)
        return behind.show(made, Image.fromarray(covered), path)
    if image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        if not (values.min() >= 0 and values.max() <= 1):  # NaN is neither
            raise InputError(
                f"{path}: holds floats from {values.min():g} to {values.max():g} (mode F); only 0 to 1 are read: "
                "save it in 8 or 16 bits"
            )
        return scaled(values, 1, source)
    raise InputError(f"{path}: pictures of mode {image.mode} are not read; save it as RGB or grey in 8 or 16 bits")


def bits_of(source: Image.Image) -> int:
    """Bits of a grey value of more than eight: TIFF has pictures of 12 too."""
    tags = getattr(source, "tag_v2", {})
    return int(tags.get(BITS_PER_SAMPLE, (16,))[0])


def scaled(values: NDArray[np.float64], white: float, source: Image.Image) -> Image.Image:
    """Grey values (H, W) from 0 to `white` in eight bits; TIFF may count them from white."""
    if getattr(source, "tag_v2", {}).get(PHOTOMETRIC) == 0:
        values = white - values
    return Image.fromarray(np.rint(values * (255 / white)).clip(0, 255).astype(np.uint8))


def fitted(
    image: Image.Image, picture: tuple[int, int, int], reading: Reading = AS_USUAL, tally: Tally | None = None
) -> NDArray[np.uint8]:
    """A picture as (H, W, C), brought to the aspect as `reading` says and scaled; grey where C is 1."""
    height, width, channels = picture
    # Averages for pictures of few pixels; a sharper filter where there are many.
    mode, filtered = ("L", Image.Resampling.BOX) if channels == 1 else ("RGB", Image.Resampling.LANCZOS)
    image = image.convert(mode)
    if tally is not None:
        tally.reshaped += image.width * height != image.height * width
    if reading.fit == "crop":
        made = ImageOps.fit(image, (width, height), filtered)
    elif reading.fit == "stretch":
        made = image.resize((width, height), filtered)
    else:
        share = min(width / image.width, height / image.height)
        inner = max(1, round(image.width * share)), max(1, round(image.height * share))
        made = Image.new("RGB", (width, height), reading.colour).convert(mode)
        made.paste(image.resize(inner, filtered), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return np.array(made, dtype=np.uint8).reshape(picture)


def save_picture(pixels: NDArray[np.uint8], path: Path) -> None:
    """A picture (H, W, C) as a PNG file, grey where C is 1."""
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(path, format="PNG")
