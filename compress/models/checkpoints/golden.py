"""What a family's golden file (.npz) holds: kinds of arrays, and what they ask of the model.

Letters: N pictures, T tokens of a picture, P x C features of a text, O logits of a position, H x W pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.arrays import FLOATS, NUMBERS, TRUTHS, WHOLE, Wanted
from compress.core.settings import InputError
from export.runtime.sampling import Sampler
from export.runtime.shape import Shape

Arrays = Mapping[str, NDArray[Any]]

SCALE = re.compile(r"tokens_(\d{1,3})")  # the tokens of one scale
ROWS, FLAT, GRIDS = Wanted(WHOLE, (1,)), Wanted(WHOLE, (2,)), Wanted(WHOLE, (2, 3))  # (N,), (N, T), (N, T) or (N, h, w)
FLAGS, CONDITIONS = Wanted(TRUTHS, (1,)), Wanted(NUMBERS, (1, 3))  # (N,), classes (N,) or features (N, P, C)
COUNT, NUMBER = Wanted(WHOLE, (0,)), Wanted(NUMBERS, (0,))
LOGITS, FEATURES = Wanted(FLOATS, (3,)), Wanted(FLOATS, (3,))  # (N, T, O), (N, P, C)
DRAWN = {  # one of the two is needed where pictures are drawn
    "greedy_tokens": Wanted(WHOLE, (2, 3), needed=False),
    "greedy_image": Wanted(FLOATS, (4,), needed=False),
}
PIXELS = Wanted(FLOATS, (4,), needed=False)  # (N, C, H, W)
ORDER, LATENTS = Wanted(WHOLE, (2,), needed=False), Wanted(FLOATS, (3,), needed=False)  # (T, 2), (N, T, width)
PICTURES = ("logits", "tokens", "labels", "cond", "features", "drop_label", *DRAWN)  # one row for each picture


@dataclass(frozen=True)
class Golden:
    """What a family's golden arrays ask: inputs (N, 1 + ...) with their logits, and pictures drawn without chance."""

    inputs: NDArray[np.int64]
    features: NDArray[np.float32] | None = None
    labels: NDArray[np.int64] | None = None
    sampler: Sampler | None = None


def with_class(labels: NDArray[np.int64], tokens: NDArray[np.int64], shape: Shape) -> NDArray[np.int64]:
    """Inputs (N, 1 + ...) of classes (N,) and tokens (N, ...)."""
    return np.concatenate([labels[:, None] + shape.first_class, tokens], axis=1).astype(np.int64)


def after_first(arrays: Arrays, shape: Shape) -> Golden:
    """Of families whose first token is the class, or the start token of a model without classes."""
    tokens = arrays["tokens"]
    if not tokens.shape[1]:
        raise InputError("--golden: array 'tokens' has no tokens; the first is the class, or the start token")
    labels = tokens[:, 0] if shape.classes else np.zeros(len(tokens), dtype=np.int64)
    return Golden(with_class(labels, tokens[:, 1:], shape))


def scales(arrays: Arrays) -> list[str]:
    """The names `tokens_0`, `tokens_1`, ... in order."""
    return sorted((name for name in arrays if SCALE.fullmatch(name)), key=lambda name: int(name.split("_")[1]))


def tokens_of_scales(arrays: Arrays) -> NDArray[np.int64]:
    """Tokens (N, T) of all scales, one behind the other.

    Raises:
        InputError: the scales are of different numbers of pictures.
    """
    names = scales(arrays)
    check_rows(arrays, [*PICTURES, *names])
    return np.concatenate([arrays[name] for name in names], axis=1).astype(np.int64)


def check_rows(arrays: Arrays, names: Iterable[str] = PICTURES) -> None:
    """Refuse arrays of different numbers of pictures, and of none.

    Raises:
        InputError: names the first that differs.
    """
    names = [name for name in names if name in arrays]
    first = names[0]
    for name in names:
        if len(arrays[name]) != len(arrays[first]) or not len(arrays[first]):
            raise InputError(
                f"--golden: array '{name}' is of {len(arrays[name])} pictures, '{first}' of {len(arrays[first])}"
            )
