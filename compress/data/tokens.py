"""TokenSets from where users have them: the shipped digits, a file, or a folder of pictures."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from calibration.archives import FileError
from calibration.photos import photo_crops
from calibration.tokens import TokenSet, digits, split
from compress.core.settings import InputError, shown
from compress.core.user_files import user_path
from compress.models import zoo
from compress.models.tokenizer.model import Tokenizer

if TYPE_CHECKING:
    from compress.models.adopted import AdoptedModel
    from compress.models.candidate import Candidate
    from compress.models.image_model import ImageModel
    from export.runtime.shape import Shape

# Shipped pictures as tokens, beside the tokenizer that made them.
SHIPPED = {"photos": "photos-tokenizer/tokens.npz", "emoji": "emoji-tokenizer/tokens.npz"}
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def open_source(source: str, where: str) -> TokenSet:
    """The TokenSet called 'digits', 'photos' or 'emoji', or the one in a file.

    Raises:
        InputError: there is none, or the file is not a TokenSet.
    """
    if source == "digits":
        return digits()
    path = zoo.ROOT / SHIPPED[source] if source in SHIPPED else user_path(source, where)
    if not path.exists():
        raise InputError(f"{where}: {shown(source)} is neither a file nor 'digits', 'photos' or 'emoji'")
    try:
        tokens = TokenSet.load(path)
    except FileError as error:
        raise InputError(f"{where}: {error}") from error
    if not len(tokens):
        raise InputError(f"{where}: {source} holds no pictures")
    return tokens


def check_fits(tokens: TokenSet, model: ImageModel | AdoptedModel, where: str) -> None:
    """Refuse tokens that the model cannot read.

    Raises:
        InputError: another number of tokens per picture, a token or a class the model does not know.
    """
    config = model.shape
    if tokens.tokens.shape[1] != config.length:
        raise InputError(
            f"{where}: pictures have {tokens.tokens.shape[1]} tokens; {model.name} reads {config.length} "
            f"({config.grid[0]}x{config.grid[1]})"
        )
    check_features(tokens, config, where)
    for name, values, limit in (
        ("token", tokens.tokens, config.vocabulary),
        ("class", tokens.labels, config.classes + 1),
    ):
        wrong = values[(values < 0) | (values >= limit)]
        if len(wrong):
            raise InputError(f"{where}: {name} {wrong[0]} is out of range; {model.name} knows 0 to {limit - 1}")


def check_features(tokens: TokenSet, shape: Shape, where: str) -> None:
    """Refuse features of texts that the model does not read, or that it needs.

    Raises:
        InputError: they are missing, too many, or of another size.
    """
    found = None if tokens.features is None else tokens.features.shape[1:]
    wanted = None if shape.text is None else (shape.text.length, shape.text.width)
    if found != wanted:
        said = "no features of texts" if found is None else f"features of texts of shape {found}"
        needed = "none" if wanted is None else f"those of shape {wanted}"
        raise InputError(f"{where}: has {said}; the model reads {needed}")


def photos(tokenizer: Tokenizer, train: int, seed: int) -> TokenSet:
    """Crops of the shipped photographs as tokens: random ones to train on, the fixed grids of the other parts."""
    parts = [photo_crops("train", train, seed), photo_crops("validation"), photo_crops("held_out")]
    tokens = np.concatenate([tokenizer.encode(images) for images, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])
    return TokenSet(tokens, labels, np.repeat(np.arange(len(parts)), [len(labels) for _, labels in parts]))


def from_folder(folder: Path, model: Candidate, validation: float, held_out: float, seed: int) -> TokenSet:
    """Tokens of every picture in a folder; the pictures of a subfolder whose name is a class number get that class.

    Pictures right in the folder get the null class. Each is cropped to the aspect of the model's pictures around its
    centre and scaled to their size. Shares of `validation` and `held_out` are set apart.

    Raises:
        InputError: no pictures, an unreadable picture, a subfolder that is not a class, or shares that leave nothing.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of pictures")
    if validation + held_out >= 1:
        raise InputError(f"validation {validation:g} and held-out {held_out:g} leave nothing to train on; stay below 1")
    arrays, labels = [], []
    for path in sorted(pictures_in(folder)):
        labels.append(class_of(path.relative_to(folder), model.shape.null_class, folder))
        arrays.append(read_picture(path, model.picture))
    if not arrays:
        raise InputError(f"{folder}: holds no pictures ({', '.join(PICTURES)})")
    classes = np.array(labels, dtype=np.int64)
    parts = split(classes, round(validation * len(arrays)), round(held_out * len(arrays)), seed)
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(arrays))
    return TokenSet(model.encode_images(np.stack(arrays)), classes, parts).take(order)


def pictures_in(folder: Path) -> Iterator[Path]:
    """The picture files in a folder and its subfolders, by their endings.

    Raises:
        OSError: a subfolder may not be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    for parent, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(parent, name) for name in names if Path(name).suffix.lower() in PICTURES)


def read_picture(path: Path, picture: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A picture file as (H, W, C), cropped to the aspect around its centre and scaled; grey where C is 1.

    Raises:
        InputError: as `open_picture`.
    """
    from compress.data.picture_files import fitted, open_picture

    return fitted(open_picture(path), picture)


def class_of(path: Path, null_class: int, folder: Path) -> int:
    """The class that a picture's subfolder names, or the null class."""
    if len(path.parts) == 1 or not null_class:
        return null_class
    if not re.fullmatch("[0-9]+", path.parts[0]) or int(path.parts[0]) >= null_class:
        raise InputError(f"{folder / path.parts[0]}: a subfolder is named for its class, 0 to {null_class - 1}")
    return int(path.parts[0])
