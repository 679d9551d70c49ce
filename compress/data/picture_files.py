"""Pictures from disk as a viewer shows them: upright, in 8 bits, on white; the one place that opens a user's picture.

Letters: H x W pixels, C colour channels.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from compress.core.settings import InputError, cut
from compress.core.user_files import opened

FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000")
MOST_PIXELS = 178_956_970  # Pillow's own limit; three bytes each are 0.5 GiB
WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
AS_THEY_ARE = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
REASON = 100  # characters of a decoder's own words
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # tags of TIFF


def open_picture(path: Path, opaque: bool = False) -> Image.Image:
    """A picture file, upright by its EXIF orientation, in mode L or RGB.

    Sixteen bits are scaled to eight, and floats from 0 to 1 too. What is transparent shows white behind it; with
    `opaque` it is refused. Of several pictures in a file the first is read; colour profiles are not applied.

    Raises:
        InputError: it is no picture, too large, or of numbers whose black and white are not known.
    """
    with opened(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of size, which the limit decides, and of damaged EXIF
        try:
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise too_large(path)
                return eight_bits(ImageOps.exif_transpose(image), image, path, opaque)
        except InputError:
            raise
        except Image.DecompressionBombError:
            raise too_large(path) from None
        except UnidentifiedImageError:
            raise InputError(f"{path}: not a readable picture; known are {', '.join(FORMATS)}") from None
        except Exception as error:  # decoders of damaged bytes raise whatever comes
            raise InputError(f"{path}: not a readable picture ({cut(str(error), REASON)})") from error


def too_large(path: Path) -> InputError:
    """The refusal of a picture of too many pixels."""
    return InputError(f"{path}: has more than {MOST_PIXELS // 10**6} million pixels, the most that are read")


def eight_bits(image: Image.Image, source: Image.Image, path: Path, opaque: bool) -> Image.Image:
    """A picture of any mode in mode L or RGB; `source` is what the file holds, before it was turned.

    Raises:
        InputError: the mode is named.
    """
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        return on_white(image, path, opaque)
    if image.mode in AS_THEY_ARE:
        return image.convert("L" if image.mode in ("1", "L") else "RGB")
    if image.mode.startswith("I;16") or (image.mode == "I" and source.format in ("PNG", "PPM")):
        return scaled(np.asarray(image).astype(np.float64), 2 ** bits_of(source) - 1, source)
    if image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        if not (values.min() >= 0 and values.max() <= 1):  # NaN is neither
            raise InputError(
                f"{path}: holds floats from {values.min():g} to {values.max():g} (mode F); only 0 to 1 are read: "
                "save it in 8 or 16 bits"
            )
        return scaled(values, 1, source)
    raise InputError(f"{path}: pictures of mode {image.mode} are not read; save it as RGB or grey in 8 or 16 bits")


def on_white(image: Image.Image, path: Path, opaque: bool) -> Image.Image:
    """A picture with transparency, on white."""
    if image.mode.startswith("I"):
        raise InputError(f"{path}: 16 bits with a transparent colour are not read; save it in 8 bits")
    colours = image.convert("RGBA")
    if opaque and np.asarray(colours.getchannel("A")).min() < 255:
        raise InputError(f"{path}: has transparent pixels; a mask is black and white")
    whole = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    return whole.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB")


def bits_of(source: Image.Image) -> int:
    """Bits of a grey value of more than eight: TIFF has pictures of 12 too."""
    tags = getattr(source, "tag_v2", {})
    return int(tags.get(BITS_PER_SAMPLE, (16,))[0])


def scaled(values: NDArray[np.float64], white: float, source: Image.Image) -> Image.Image:
    """Grey values (H, W) from 0 to `white` in eight bits; TIFF may count them from white."""
    if getattr(source, "tag_v2", {}).get(PHOTOMETRIC) == 0:
        values = white - values
    return Image.fromarray(np.rint(values * (255 / white)).clip(0, 255).astype(np.uint8))


def fitted(image: Image.Image, picture: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A picture as (H, W, C), cropped to the aspect around its centre and scaled; grey where C is 1."""
    height, width, channels = picture
    # Averages for pictures of few pixels; a sharper filter where there are many.
    mode, filtered = ("L", Image.Resampling.BOX) if channels == 1 else ("RGB", Image.Resampling.LANCZOS)
    made = ImageOps.fit(image.convert(mode), (width, height), filtered)
    return np.array(made, dtype=np.uint8).reshape(picture)


def save_picture(pixels: NDArray[np.uint8], path: Path) -> None:
    """A picture (H, W, C) as a PNG file, grey where C is 1."""
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(path, format="PNG")
