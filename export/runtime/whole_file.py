"""Drawing with the one file of an engine that does everything, from labels and a seed to tokens and pictures.

Letters: N pictures, T tokens of a picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .choosing import UNSOUND, unsound
from .drawing import check_request, classes_of
from .noise import check_seed

if TYPE_CHECKING:
    from .engine import Engine


def draw(
    engine: Engine, labels: NDArray[np.int64], seed: int, features: NDArray[np.float32] | None
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Tokens (N, T) and pictures (N, H, W, C) from the one file that does all, as the engine's own sampler draws.

    Raises:
        EngineError: the folder has no such file.
        ValueError: what cannot be drawn, as `generate` says.
    """
    classes = classes_of(labels, engine.shape)
    check_request(classes, engine.shape, features, None)
    check_seed(seed)
    whole = engine.graphs.opened("generate", "has no single file; make it with  engine: {single_file: true}")
    feeds: dict[str, Any] = {"labels": classes, "seed": np.array(seed, dtype=np.uint64).view(np.int64)}
    if features is not None:
        feeds["features"] = features
    with engine._running("generate"):
        tokens, images = whole.run(["tokens", "images"], feeds)
    if (tokens == UNSOUND).any():
        raise unsound("NaN")
    return tokens, images
