"""The checkpoint of a training: one file, whole or not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from compress.core import durable
from compress.core.settings import InputError


def write_checkpoint(saved: dict[str, Any], path: Path) -> None:
    """Put a checkpoint in the place of the one before.

    Raises:
        OSError: it cannot be written; the one before stays.
    """
    draft = path.with_suffix(".draft")
    try:
        torch.save(saved, draft)
        durable.sync(draft)
        durable.move(draft, path)
    except BaseException:  # a full disk, or a second interruption
        draft.unlink(missing_ok=True)
        raise


def read_checkpoint(path: Path | None) -> dict[str, Any]:
    """What was saved last; nothing where there is no checkpoint, or only a damaged one.

    Raises:
        InputError: something that is no file has its place.
        OSError: it may not be read.
    """
    if path is None or not path.exists():
        return {}
    if not path.is_file():
        raise InputError(f"{path}: is no file, but has the place of a training's checkpoint; remove it")
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
    except (PermissionError, MemoryError):
        raise
    except Exception:  # any, by what is damaged: PyTorch's reader has an OSError for a file that was cut
        return {}
    return saved if isinstance(saved, dict) else {}
