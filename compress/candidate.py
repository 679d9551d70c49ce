"""Anything that can be scored and drawn with: a checkpoint, a stored artifact, or an engine folder.

Letters: N pictures, T tokens of a picture, O logits of a position.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from compress.models import families, zoo
from compress.settings import InputError, nearest

if TYPE_CHECKING:
    from export.drawing import Known
    from export.engine import Engine
    from export.sampling import Sampler
    from export.shape import Shape

MANIFEST = "manifest.json"


class Candidate(Protocol):
    """What ImageModel and Engine have in common."""

    @property
    def sampler(self) -> Sampler:
        """How it draws unless told otherwise."""

    @property
    def shape(self) -> Shape:
        """Its tokens, classes and order of drawing."""

    @property
    def vocabulary(self) -> int:
        """Image tokens."""

    @property
    def classes(self) -> int:
        """Classes, without the null class."""

    @property
    def length(self) -> int:
        """Tokens of a picture."""

    def score(self, inputs: NDArray[np.int64], features: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Teacher-forced logits (N, T, O) of inputs (N, 1 + ...)."""

    def score_stepwise(
        self, inputs: NDArray[np.int64], features: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """The same logits step by step as when drawing."""

    def draw_tokens(
        self,
        labels: NDArray[np.int64],
        seed: int = 0,
        sampler: Sampler | None = None,
        features: NDArray[np.float32] | None = None,
        known: Known | None = None,
    ) -> NDArray[np.int64]:
        """Tokens (N, T) of new pictures of these classes (N,); `known` ones stay where they are."""

    def encode_images(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Tokens (N, T) of pictures (N, H, W, C)."""

    def decode_images(self, tokens: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pictures (N, h, w, C) of tokens (N, T)."""


def open_engine(folder: Path, threads: int) -> Engine:
    """The engine in a folder.

    Raises:
        InputError: the folder is damaged or not an engine.
    """
    from export.engine import Engine, EngineError

    try:
        return Engine.load(folder, threads=threads)
    except EngineError as error:
        raise InputError(str(error)) from error


def open_candidate(name: str, threads: int = 0) -> Candidate:
    """The shipped model of this name, or what a folder holds.

    Raises:
        InputError: it is neither.
    """
    if name in zoo.names():
        return families.load("reference", name, name)
    folder = Path(name).expanduser()
    if (folder / MANIFEST).exists():
        return open_engine(folder, threads)
    if (folder / "config.json").exists():
        return families.load("reference", name, name)
    if not folder.is_dir():
        raise InputError(f"{name}: neither a folder nor a shipped model; {nearest(name, zoo.names())}")
    raise InputError(f"{name}: holds neither {MANIFEST} (an engine) nor config.json (a checkpoint)")
