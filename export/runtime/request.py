"""What a command line asks to be drawn: classes, how many pictures, or features of texts from a file.

Letters: N pictures, P x C features of a text.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .drawing import classes_of
from .errors import shown
from .shape import Shape

NUMBER = re.compile(r"-?[0-9]{1,1000}")


def wanted(
    shape: Shape, labels: str | None, count: int | None, features: Path | None
) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
    """The classes (N,) to draw, and features (N, P, C) of texts, as the options say.

    Raises:
        ValueError: the model takes something else.
    """
    if shape.text is not None:
        if features is None or labels is not None:
            raise ValueError("this model draws texts: give --features FILE.npy, not --labels")
        texts = read_features(features)
        return np.zeros(len(texts), dtype=np.int64), texts
    if features is not None:
        raise ValueError("--features: this model draws no texts; leave it out")
    if shape.classes == 0:
        if labels is not None:
            raise ValueError("--labels: this model knows no classes; give --count instead")
        return np.zeros(count or 1, dtype=np.int64), None
    if count is not None:
        raise ValueError("--count: this model draws classes; give a label for each picture and leave it out")
    if labels is None:
        raise ValueError(f"--labels: needed, one of 0 to {shape.classes - 1} for each picture, separated by commas")
    try:
        return classes_of(labels_in(labels, shape), shape), None
    except ValueError as error:
        raise ValueError(f"--labels: {error}") from error


def labels_in(text: str, shape: Shape) -> list[int | str]:
    """Numbers and names of classes, separated by commas; a name that holds one stands in double quotes, or alone.

    Raises:
        ValueError: the text is no such list.
    """
    if text in shape.class_names:
        return [text]
    try:
        (parts,) = csv.reader([text], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{shown(text)} is not a list of classes separated by commas ({error})") from error
    parts = [part.strip() for part in parts]
    if not shape.class_names and not all(NUMBER.fullmatch(part) for part in parts):
        raise ValueError(f"{shown(text)} is not a list of whole numbers like 3,1,4")
    return [int(part) if NUMBER.fullmatch(part) and part not in shape.class_names else part for part in parts]


def read_features(path: Path) -> NDArray[np.float32]:
    """Features of texts (N, P, C) from a .npy file, which is mapped before it is read: its header may say any size.

    Raises:
        ValueError: it is no such file.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"--features: {path}: is not a regular file")
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy parses the header as Python, with whatever that raises
        raise ValueError(f"--features: {path}: not a readable .npy file ({str(error)[:200]})") from error
    if not isinstance(found, np.ndarray) or found.ndim != 3 or found.dtype.kind != "f":
        said = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else "an archive"
        raise ValueError(f"--features: {path}: holds {said}; floats (pictures, length, width) are needed")
    return found.astype(np.float32)
