"""TokenSets from where users have them: the shipped digits, a file, or a folder of pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from calibration.archives import FileError
from calibration.tokens import TokenSet, digits, split
from compress.core.settings import InputError, shown
from compress.core.user_files import user_path
from compress.data.class_labels import numbered, said_by_file, said_by_folders
from compress.data.reading import AS_USUAL, Reading, Tally
from compress.models import zoo
from compress.models.tokenizer.model import Tokenizer

if TYPE_CHECKING:
    from compress.models.adopted import AdoptedModel
    from compress.models.candidate import Candidate
    from compress.models.image_model import ImageModel
    from export.runtime.shape import Shape

# Shipped pictures as tokens, beside the tokenizer that made them.
SHIPPED = {"emoji": "emoji-tokenizer/tokens.npz"}
DECODED_AT_ONCE = 64
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def open_source(source: str, where: str) -> TokenSet:
    """The TokenSet called 'digits' or 'emoji', or the one in a file.

    Raises:
        InputError: there is none, or the file is not a TokenSet.
    """
    if source == "digits":
        return digits()
    path = zoo.ROOT / SHIPPED[source] if source in SHIPPED else user_path(source, where)
    if not path.exists():
        raise InputError(f"{where}: {shown(source)} is neither a file nor 'digits' or 'emoji'")
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
    check_class_names(tokens.class_names, config, where)
    for name, values, limit in (
        ("token", tokens.tokens, config.vocabulary),
        ("class", tokens.labels, config.classes + 1),
    ):
        wrong = values[(values < 0) | (values >= limit)]
        if len(wrong):
            raise InputError(f"{where}: {name} {wrong[0]} is out of range; {model.name} knows 0 to {limit - 1}")


def check_class_names(names: Sequence[str], shape: Shape, where: str) -> None:
    """Refuse classes whose names are others than the model's, or stand in another order.

    Raises:
        InputError: the first class that differs.
    """
    for label, (own, wanted) in enumerate(zip(names, shape.class_names, strict=False)):
        if own != wanted:
            raise InputError(f"{where}: calls class {label} {shown(own)}; the model calls it {shown(wanted)}")


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


@dataclass(frozen=True)
class Encoding:
    """What turns pictures (H, W, C) into tokens, and the model whose classes they are, if there is one already."""

    picture: tuple[int, int, int]
    encode: Callable[[NDArray[np.uint8]], NDArray[np.int64]]
    shape: Shape | None

    @classmethod
    def of(cls, given: Candidate | Tokenizer) -> Encoding:
        """That of a model or an engine, or of a tokenizer alone."""
        if hasattr(given, "encode_images") and hasattr(given, "shape"):
            return cls(given.picture, given.encode_images, given.shape)
        return cls(given.picture, given.encode, None)


def from_folder(
    folder: Path,
    encoding: Encoding,
    validation: float,
    held_out: float,
    seed: int,
    labels: Path | None = None,
    reading: Reading = AS_USUAL,
    tally: Tally | None = None,
) -> TokenSet:
    """Tokens of every picture in a folder, with the class that its subfolder or a CSV file of `labels` says.

    Pictures right in the folder get the null class; of a CSV file, those that it lists are read. Each is brought to
    the aspect of the model's pictures as `reading` says, and scaled to their size; `tally` counts them. Shares of
    `validation` and `held_out` are set apart.

    Raises:
        InputError: no pictures, an unreadable picture, what is not a class, or shares that leave nothing.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder of pictures")
    if validation + held_out >= 1:
        raise InputError(f"validation {validation:g} and held-out {held_out:g} leave nothing to train on; stay below 1")
    said = said_by_folders(sorted(pictures_in(folder)), folder) if labels is None else said_by_file(labels, folder)
    if not said:
        raise InputError(f"{folder}: holds no pictures ({', '.join(PICTURES)})" if labels is None else
                         f"{labels}: lists no pictures")  # fmt: skip
    classes, names = numbered(said, encoding.shape)
    arrays = [read_picture(each.picture, encoding.picture, reading, tally) for each in said]
    parts = split(classes, round(validation * len(arrays)), round(held_out * len(arrays)), seed)
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(arrays))
    return TokenSet(encoding.encode(np.stack(arrays)), classes, parts, class_names=names).take(order)


def to_folder(tokens: TokenSet, decoder: Candidate | Tokenizer, folder: Path) -> int:
    """Decode a set's pictures into PNG files, in subfolders of their classes, as `from_folder` reads them.

    Files are numbered in the order of the set. How many there are is returned.

    Raises:
        InputError: the folder holds something, or the set's tokens are not the decoder's.
    """
    from compress.data.picture_files import save_picture

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is there already; name a new folder, so that nothing is overwritten")
    length, vocabulary = tokens.tokens.shape[1], decoder.vocabulary
    if length != decoder.length or int(tokens.tokens.max()) >= vocabulary:
        raise InputError(
            f"tokens: pictures have {length} tokens up to {tokens.tokens.max()}; the model decodes {decoder.length} "
            f"tokens below {vocabulary}"
        )
    decode = decoder.decode_images if hasattr(decoder, "decode_images") else decoder.decode
    null = decoder.shape.null_class if hasattr(decoder, "shape") else len(tokens.class_names)
    width = len(str(len(tokens) - 1))
    for start in range(0, len(tokens), DECODED_AT_ONCE):
        rows = slice(start, start + DECODED_AT_ONCE)
        for number, (pixels, label) in enumerate(
            zip(decode(tokens.tokens[rows]), tokens.labels[rows], strict=True), start
        ):
            named = tokens.class_names[label] if label < len(tokens.class_names) else str(label)
            room = folder if label == null and null else folder / named.replace("/", "_")
            room.mkdir(parents=True, exist_ok=True)
            save_picture(pixels, room / f"{number:0{width}}.png")
    return len(tokens)


def pictures_in(folder: Path) -> Iterator[Path]:
    """The picture files in a folder and its subfolders, by their endings.

    Raises:
        OSError: a subfolder may not be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    for parent, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(parent, name) for name in names if Path(name).suffix.lower() in PICTURES)


def read_picture(
    path: Path, picture: tuple[int, int, int], reading: Reading = AS_USUAL, tally: Tally | None = None
) -> NDArray[np.uint8]:
    """A picture file as (H, W, C), brought to the aspect as `reading` says and scaled; grey where C is 1.

    Raises:
        InputError: as `open_picture`.
    """
    from compress.data.picture_files import fitted, open_picture

    return fitted(open_picture(path, reading=reading, tally=tally), picture, reading, tally)
