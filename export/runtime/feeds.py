"""What a decode graph reads: a choice of tokens, features of texts, and all tokens of a picture in one call.

Letters: N pictures, R rows of a step, P x C features of a text.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .choosing import Choice
from .cuts import limits_of
from .drawing import opening
from .manifest import Manifest
from .sessions import Sessions
from .signature import POSITION, POSITIONS, SEQLENS, TOTAL, DecodeSignature

NOTHING_TO_CHOOSE = Choice(np.zeros((1, 1, 1), dtype=np.float32))  # a graph that samples has to be fed a choice


def choice_feeds(choice: Choice) -> dict[str, NDArray[Any]]:
    """What a graph that samples reads of a choice; at temperature 0 there is no noise and nothing is divided.

    What cuts nothing is a limit that nothing reaches.
    """
    return {
        "noise": choice.noise,
        "guidance": np.array(choice.guidance, dtype=np.float32),
        "temperature": np.array(choice.temperature or 1.0, dtype=np.float32),
        **limits_of(choice.cuts),
    }


def text_feeds(features: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """What a causal graph, or what runs before it, reads of the features of texts (R, P, C); zeros are padding."""
    return {"features": np.ascontiguousarray(features), "valid": (features != 0).any(axis=-1)}


def feeds_of_all(
    inputs: NDArray[np.int64], features: NDArray[np.float32] | None, manifest: Manifest, sessions: Sessions
) -> dict[str, Any]:
    """Feeds of one call for everything (N, 1 + ...) behind an empty cache."""
    shape, count, taken = manifest.shape, len(inputs), sessions.taken
    labels, tokens = inputs[:, 0] - shape.first_class, inputs[:, 1:]
    if shape.drawing.sequential and (features is None or manifest.cache == "static"):
        tokens = opening(shape, labels, tokens)
    feeds: dict[str, Any] = {"tokens": np.ascontiguousarray(tokens)}
    if manifest.sampling:
        feeds |= choice_feeds(NOTHING_TO_CHOOSE)
    if shape.labelled:
        feeds["labels"] = labels
    if features is not None:
        feeds |= text_feeds(features)
    begun = sessions.begun(feeds)
    feeds = {name: value for name, value in feeds.items() if name in taken} | begun
    if POSITIONS in taken:
        feeds[POSITIONS] = np.arange(shape.length)
    caches = DecodeSignature.of(manifest).caches
    feeds |= {f"past.{name}": port.zeros(batch=count, past=0) for name, port in caches.items()}
    length = tokens.shape[1]
    if manifest.cache == "shared":
        feeds[SEQLENS] = np.full(count, length - 1, dtype=np.int32)
        feeds[TOTAL] = np.array(length, dtype=np.int32)
    elif manifest.cache == "static":
        feeds[POSITION] = np.array(0, dtype=np.int64)
    return feeds


def filled_up(rows: NDArray[Any], multiple: int) -> NDArray[Any]:
    """The rows and copies of the last one, up to a multiple."""
    return np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % multiple, axis=0)])
