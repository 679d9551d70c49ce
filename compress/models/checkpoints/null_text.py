"""The features of no text, which guidance needs: given in a file, or what the pipeline's own encoder says of ''."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calibration.archives import FileError
from calibration.arrays import NUMBERS, Wanted, read_array
from compress.core.settings import InputError, shown
from compress.core.user_files import user_path
from compress.models import clip
from compress.models.checkpoints.checkpoint import Checkpoint
from compress.models.checkpoints.layouts import CONFIG
from compress.models.transformer.architecture import TransformerConfig


def pipeline_of(path: Path) -> Path | None:
    """The folder of the whole pipeline, of which the path is that or a part."""
    return next((each for each in (path, *path.parents[:2]) if (each / "text_encoder" / CONFIG).is_file()), None)


def text_length(checkpoint: Checkpoint, parts: Path | None) -> int:
    """Rows of a text's features: one for each of its tokens, and the pooled embedding."""
    given = given_null(checkpoint)
    if given is not None:
        return len(given)
    return 1 + (clip.length(parts) if parts else clip.LENGTH)


def given_null(checkpoint: Checkpoint) -> np.ndarray[Any, Any] | None:
    """The features of no text that the user gives.

    Raises:
        InputError: the file holds no array of two axes.
    """
    path = checkpoint.config.get("null_features")
    if path is None:
        return None
    if not isinstance(path, str):
        raise InputError(f"{checkpoint.path}: config.null_features: {shown(path)} is not a path")
    try:
        beside = checkpoint.weights[0].parent / path if checkpoint.weights else Path(path)
        array = read_array(beside if beside.is_file() else user_path(path, "null_features"), Wanted(NUMBERS, (2,)))
    except (FileError, OSError, RuntimeError) as error:  # RuntimeError: of a home folder that is nobody's
        said = getattr(error, "strerror", None) or error
        raise InputError(f"{checkpoint.path}: config.null_features: {said}") from error
    return array.astype(np.float32)


def null_features(checkpoint: Checkpoint, config: TransformerConfig) -> Tensor:
    """The features (P, C) of no text.

    Raises:
        InputError: they are not given, and there is no text encoder to ask.
    """
    assert config.text is not None
    if checkpoint.is_planned:
        return torch.empty(config.text.length, config.text.width, device="meta")
    given = given_null(checkpoint)
    if given is not None:
        return torch.from_numpy(given)
    return torch.from_numpy(clip.features(encoder_beside(checkpoint), [""])[0])


def encoder_beside(checkpoint: Checkpoint) -> Path:
    """The pipeline's folder, whose text encoder says what the features of no text are.

    Raises:
        InputError: there is none.
    """
    parts = pipeline_of(checkpoint.path)
    if parts is None:
        raise InputError(
            f"{checkpoint.path}: no text_encoder beside it, so the features of no text are not known; give the "
            "pipeline's folder, or state config.null_features, a .npy file (texts' tokens + 1, width)"
        )
    return parts
