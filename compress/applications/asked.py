"""What the applications are given: a picture, the class or text of what is drawn, and settings of sampling.

Letters: N pictures, H x W pixels, C channels, P x D features of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.applications.limits import MOST_COUNT, check_count
from compress.core.settings import InputError, shown
from compress.data.picture_files import open_picture
from compress.data.reading import AS_USUAL, Reading, Tally
from compress.data.wish import Wish
from compress.models.candidate import Candidate
from export.runtime.drawing import classes_of
from export.runtime.heeded import sampler_of
from export.runtime.options import Sampling
from export.runtime.request import labels_in
from export.runtime.sampling import GUIDANCE, Sampler
from export.runtime.shape import Shape

Report = Callable[[int, int], None]  # is told how many pictures or windows are done, and of how many


def silent(done: int, count: int) -> None:
    """Tell nobody."""


def wish_of(
    model: Candidate,
    label: str | int | Sequence[str | int] | None,
    count: int,
    features: NDArray[np.float32] | None,
    seed: int,
    batch: int,
    sampling: Sampling,
) -> Wish:
    """What is to be drawn: `count` pictures of each class, or of each text; without a class unconditional ones.

    Raises:
        InputError: the model takes something else, or would ignore a setting.
    """
    check_count("count", count, 1, MOST_COUNT)
    shape = model.shape
    if shape.text is None:
        if features is not None:
            raise InputError("--features: this model draws no texts; leave it out")
        labels = np.repeat(labels_of(label, shape), count)
    else:
        if features is None or label is not None:
            raise InputError("this model draws texts: give --features FILE.npy, not --label")
        features = np.repeat(features, count, axis=0)
        labels = np.zeros(len(features), dtype=np.int64)
    sampling = guided(sampling, model.sampler, shape, labels)
    try:
        sampler_of(shape, model.sampler, **sampling)
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from error
    return Wish(labels, seed, features, batch, sampling)


def labels_of(label: str | int | Sequence[str | int] | None, shape: Shape) -> NDArray[np.int64]:
    """The classes (N,) of text as the command line has it, or of numbers and names; none is the null class.

    Raises:
        InputError: one is not a class.
    """
    if label is None:
        return np.array([shape.null_class], dtype=np.int64)
    if not shape.classes:
        raise InputError("--label: this model knows no classes; leave it out")
    try:
        given = (
            labels_in(label, shape)
            if isinstance(label, str)
            else [label]
            if isinstance(label, (int, np.integer))
            else label
        )
        return classes_of(given, shape)
    except ValueError as error:
        raise InputError(f"--label: {error}") from error


def guided(sampling: Sampling, own: Sampler, shape: Shape, labels: NDArray[np.int64]) -> Sampling:
    """The settings of sampling; without guidance where nothing but unconditional pictures is drawn.

    Raises:
        InputError: guidance was asked for, which has nowhere to go.
    """
    if not shape.classes or shape.text is not None or (labels != shape.null_class).any():
        return sampling
    for name in GUIDANCE:
        if (value := sampling.get(name)) is not None:
            raise InputError(f"{name} {shown(value)}: guides towards a class; give a --label too, or leave it out")
    return sampling if own.guidance_inside else {**sampling, "cfg_scale": 1.0}


def picture_of(
    given: str | Path | NDArray[np.uint8] | Image.Image, reading: Reading = AS_USUAL, tally: Tally | None = None
) -> Image.Image:
    """A picture in mode L or RGB, of a file or of pixels (H, W, C).

    Raises:
        InputError: it cannot be read.
    """
    if isinstance(given, Image.Image):
        return given
    if isinstance(given, (str, Path)):
        return open_picture(Path(given), reading=reading, tally=tally)
    if given.dtype != np.uint8 or given.ndim != 3 or given.shape[2] not in (1, 3) or not given.size:
        raise InputError(f"picture: {given.dtype} {given.shape}; uint8 (height, width, 1 or 3) is needed")
    return Image.fromarray(given[..., 0] if given.shape[2] == 1 else given)


def pixels_in(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    """Pixels (H, W, C) of a picture in as many channels as a model's have."""
    return np.array(image.convert("L" if channels == 1 else "RGB"), dtype=np.uint8).reshape(
        image.height, image.width, channels
    )
