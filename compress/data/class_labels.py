"""Which class each picture of a folder is of: by the name of its subfolder, or by a CSV file.

A class is said by its number, or by its name. Those of a model are the model's; where there is no model yet, as when a
tokenizer is used alone, the names that are found become the classes, in alphabetical order.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.core.settings import MOST_WORDS, InputError, nearest, shown
from compress.core.user_files import read_text
from export.runtime.shape import Shape, check_class_names

HEADER = ["file", "class"]
MOST_BYTES = 2**28  # of a CSV file
NUMBER = re.compile("[0-9]{1,18}")


@dataclass(frozen=True)
class Said:
    """A picture, what is said of its class (empty: it has none), and the place that says it."""

    picture: Path
    text: str
    place: str


def said_by_folders(pictures: Sequence[Path], folder: Path) -> list[Said]:
    """Pictures in a subfolder have the class that it is named for; those right in the folder have none."""
    found = []
    for picture in pictures:
        parts = picture.relative_to(folder).parts
        text = parts[0] if len(parts) > 1 else ""
        found.append(Said(picture, text, f"{folder / text}: a subfolder is named for its class"))
    return found


def said_by_file(file: Path, folder: Path) -> list[Said]:
    """A CSV file with a picture of the folder and its class on each line, below a line ``file,class`` if there is one.

    Raises:
        InputError: a line has not two columns, or names a picture that is not there, or one twice.
    """
    found: dict[Path, Said] = {}
    try:
        rows = list(enumerate(csv.reader(io.StringIO(read_text(file, MOST_BYTES)), strict=True), 1))
    except csv.Error as error:
        raise InputError(f"{file}: not a readable CSV file ({error})") from error
    for line, row in rows:
        if not row or (line == 1 and [each.strip().lower() for each in row] == HEADER):
            continue
        if len(row) != 2:
            raise InputError(f"{file}:{line}: has {len(row)} columns; write a picture and its class, as  dog/1.png,dog")
        picture = folder / row[0].strip()
        if not picture.is_file():
            raise InputError(f"{file}:{line}: there is no picture {shown(row[0])} in {folder}")
        if picture in found:
            raise InputError(f"{file}:{line}: {shown(row[0])} stands there twice")
        found[picture] = Said(picture, row[1].strip(), f"{file}:{line}: the second column is a class")
    return list(found.values())


def numbered(said: Sequence[Said], shape: Shape | None) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Classes (N,), and the names of all classes if they have some; a picture without a class has the null class.

    They are those of a model's `shape`; without one they are what is said.

    Raises:
        InputError: something is said that is no class.
    """
    if shape is None:
        return of_names({each.text for each in said if each.text}, said)
    if not shape.classes:
        return np.zeros(len(said), dtype=np.int64), ()
    return np.array([of_model(each, shape) for each in said], dtype=np.int64), shape.class_names


def of_model(said: Said, shape: Shape) -> int:
    """The class of a model that is said.

    Raises:
        InputError: the model has no such class.
    """
    if not said.text:
        return shape.null_class
    if said.text in shape.class_names:
        return shape.class_called(said.text)
    if NUMBER.fullmatch(said.text) and int(said.text) < shape.classes:
        return int(said.text)
    named = f", or by name; {nearest(said.text, shape.class_names)}" if shape.class_names else ""
    raise InputError(f"{said.place}, 0 to {shape.classes - 1}{named}")


def of_names(texts: set[str], said: Sequence[Said]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Classes (N,) and their names, where what is said makes them; numbers alone stay numbers."""
    if all(NUMBER.fullmatch(text) for text in texts):
        numbers = {text: int(text) for text in texts}
        names: tuple[str, ...] = ()
        for each in said:
            if each.text and numbers[each.text] >= MOST_WORDS:
                raise InputError(f"{each.place}, 0 to {MOST_WORDS - 1:,}")
    else:
        names = tuple(sorted(texts))
        try:
            check_class_names(names, len(names))
        except ValueError as error:
            raise InputError(str(error)) from error
        numbers = {text: number for number, text in enumerate(names)}
    null = max(numbers.values(), default=-1) + 1
    return np.array([numbers.get(each.text, null) for each in said], dtype=np.int64), names
