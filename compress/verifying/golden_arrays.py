"""What a golden file (.npz) holds for each family and for image tokenizers: names, kinds and axes, read strictly.

Letters: N pictures, T tokens of a picture, P x C features of a text, O logits of a position, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.archives import FileError
from calibration.arrays import WHOLE, Wanted, array_names, read_arrays
from compress.core.settings import InputError
from compress.models.checkpoints.family import TorchFamily
from compress.models.checkpoints.golden import DRAWN, FLAT, LOGITS, PIXELS, SCALE, scales
from export.runtime.shape import Shape

STEPS = 10_000  # of drawing, at most
TOKENIZER = {
    "codes": Wanted(WHOLE, (2,), needed=False),
    "encoded_codes": Wanted(WHOLE, (2,), needed=False),
    **dict.fromkeys(("decoded", "decoded_unclamped", "decoded_image", "image"), PIXELS),
}
NEEDS = {"decoded": "codes", "decoded_unclamped": "codes", "decoded_image": "tokens_0", "encoded_codes": "image"}


def of_family(path: Path, family: TorchFamily) -> dict[str, NDArray[Any]]:
    """A transformer's golden arrays.

    Raises:
        InputError: the file is damaged, or an array is missing or of another kind; it is named.
    """
    wanted, behind = {**family.golden_arrays, "logits": LOGITS}, f" (family {family.name})"
    if any(name.startswith("greedy_") for name in wanted):
        wanted |= DRAWN
    found = read(path, wanted, behind)
    if "greedy_tokens" in wanted and not found.keys() & DRAWN.keys():
        raise InputError(f"--golden: {path}: array 'greedy_tokens' (or 'greedy_image') is missing{behind}")
    if "tokens" not in wanted and not scales(found):
        raise InputError(f"--golden: {path}: array 'tokens_0' is missing{behind}")
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
