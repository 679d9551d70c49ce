"""What a golden file (.npz) holds for each family and for image tokenizers: names, kinds and axes, read strictly.

Letters: N pictures, T tokens of a picture, P x C features of a text, O logits of a position, H x W pixels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.archives import FileError
from calibration.arrays import FLOATS, NUMBERS, TRUTHS, WHOLE, Wanted, array_names, read_arrays
from compress.core.settings import InputError
from export.runtime.shape import Shape

Arrays = Mapping[str, NDArray[Any]]

SCALE = re.compile(r"tokens_(\d{1,3})")  # the tokens of one scale
STEPS = 10_000  # of drawing, at most
ROWS, FLAT, GRIDS = Wanted(WHOLE, (1,)), Wanted(WHOLE, (2,)), Wanted(WHOLE, (2, 3))  # (N,), (N, T), (N, T) or (N, h, w)
COUNT, NUMBER = Wanted(WHOLE, (0,)), Wanted(NUMBERS, (0,))
LOGITS, FEATURES = Wanted(FLOATS, (3,)), Wanted(FLOATS, (3,))
DRAWN = {  # one of the two is needed where pictures are drawn
    "greedy_tokens": Wanted(WHOLE, (2, 3), needed=False),
    "greedy_image": Wanted(FLOATS, (4,), needed=False),
}
PIXELS = Wanted(FLOATS, (4,), needed=False)

PICTURES = ("logits", "tokens", "labels", "cond", "features", "drop_label", *DRAWN)  # one row for each picture

FAMILIES: dict[str, dict[str, Wanted]] = {
    "amused": {"tokens": GRIDS, "features": FEATURES, "greedy_cfg_scale": NUMBER, "greedy_steps": COUNT},
    "halton-maskgit": {
        "tokens": GRIDS,
        "labels": ROWS,
        "drop_label": Wanted(TRUTHS, (1,)),
        "halton_order": Wanted(WHOLE, (2,), needed=False),
        "greedy_w": NUMBER,
        "greedy_steps": COUNT,
    },
    "imagegpt": {"tokens": FLAT},
    "llamagen": {"tokens": FLAT, "cond": Wanted(NUMBERS, (1, 3)), "greedy_cfg_scale": NUMBER},
    "rar": {"tokens": FLAT, "labels": ROWS, "greedy_guidance_scale": NUMBER, "greedy_guidance_pow": NUMBER},
    "taming": {"tokens": FLAT},
    "titok-bert": {"tokens": FLAT, "labels": ROWS, "greedy_cfg": NUMBER, "greedy_steps": COUNT},
    "var": {
        "labels": ROWS,
        "var_input": Wanted(FLOATS, (3,), needed=False),
        "decoded_image": PIXELS,
        "greedy_cfg": NUMBER,
    },
}
TOKENIZER = {
    "codes": Wanted(WHOLE, (2,), needed=False),
    "encoded_codes": Wanted(WHOLE, (2,), needed=False),
    **dict.fromkeys(("decoded", "decoded_unclamped", "decoded_image", "image"), PIXELS),
}
NEEDS = {"decoded": "codes", "decoded_unclamped": "codes", "decoded_image": "tokens_0", "encoded_codes": "image"}


def of_family(path: Path, family: str) -> dict[str, NDArray[Any]]:
    """A transformer's golden arrays.

    Raises:
        InputError: the file is damaged, or an array is missing or of another kind; it is named.
    """
    wanted = {**FAMILIES[family], "logits": LOGITS}
    if any(name.startswith("greedy_") for name in wanted):
        wanted |= DRAWN
    found = read(path, wanted, f" (family {family})")
    if "greedy_tokens" in wanted and not found.keys() & DRAWN.keys():
        raise InputError(f"--golden: {path}: array 'greedy_tokens' (or 'greedy_image') is missing (family {family})")
    if "tokens" not in wanted and not scales(found):
        raise InputError(f"--golden: {path}: array 'tokens_0' is missing (family {family})")
    steps = int(found.get("greedy_steps", np.int64(1)))
    if not 1 <= steps <= STEPS:
        raise InputError(f"--golden: {path}: array 'greedy_steps': {steps} is not between 1 and {STEPS}")
    return found


def of_tokenizer(path: Path) -> dict[str, NDArray[Any]]:
    """An image tokenizer's golden arrays.

    Raises:
        InputError: the file is damaged, an array is of another kind, or one is there without what it was computed of.
    """
    found = read(path, TOKENIZER, "")
    for name, needed in NEEDS.items():
        if name in found and needed not in found:
            raise InputError(f"--golden: {path}: array '{needed}' is missing; '{name}' was computed of it")
    return found


def read(path: Path, wanted: Mapping[str, Wanted], behind: str) -> dict[str, NDArray[Any]]:
    """The wanted arrays and those of the scales, where there are any; whole numbers as int64."""
    try:
        of_scales = {name: FLAT for name in array_names(path) if SCALE.fullmatch(name)}
        found = read_arrays(path, {**wanted, **of_scales})
    except FileError as error:
        raise InputError(f"--golden: {error}{behind}") from error
    return {name: array.astype(np.int64) if array.dtype.kind in WHOLE else array for name, array in found.items()}


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


def check_range(name: str, values: NDArray[Any], count: int) -> None:
    """Refuse numbers outside 0 to count - 1.

    Raises:
        InputError: names the array and the first number.
    """
    wrong = values[(values < 0) | (values >= count)]
    if wrong.size:
        raise InputError(f"--golden: array '{name}' holds {wrong.flat[0]}; the model knows 0 to {count - 1}")


def check_inputs(inputs: NDArray[np.int64], features: NDArray[Any] | None, shape: Shape, reach: int) -> None:
    """Refuse inputs (N, 1 + ...) that the model cannot read: other ids, or another number of tokens.

    `reach` is how many positions the model knows.

    Raises:
        InputError: says what it would read.
    """
    tokens, labels = inputs[:, 1:], inputs[:, :1] - shape.first_class
    check_range("tokens", tokens, shape.vocabulary + shape.drawing.masks)
    check_range("labels", labels, shape.classes + 1)
    count = tokens.shape[1]
    most = reach - shape.prefix if shape.drawing.sequential else shape.length
    if count > most or (not shape.drawing.sequential and count != most):
        wanted = f"at most {most}" if shape.drawing.sequential else str(most)
        raise InputError(f"--golden: array 'tokens' has {count} tokens for each picture; the model reads {wanted}")
    text = shape.text
    wanted_features = None if text is None else (len(inputs), text.length, text.width)
    given = None if features is None else features.shape
    if given != wanted_features:
        raise InputError(f"--golden: features are {given}; the model reads {wanted_features}")
