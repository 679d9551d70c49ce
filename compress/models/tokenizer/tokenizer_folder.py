"""A trained tokenizer at rest, without a transformer: a folder with config.json and model.safetensors."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from compress.core.settings import InputError
from compress.core.strict_json import read_json
from compress.models.checkpoints.layouts import read_config
from compress.models.tokenizer.model import Tokenizer, build

FORMAT = 1
WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def save(tokenizer: Tokenizer, name: str, folder: Path) -> None:
    """Write the tokenizer into an existing folder, its floating weights as fp16."""
    state = {key: value.half() if value.dtype == torch.float32 else value for key, value in tokenizer.state().items()}
    save_file({key: value.contiguous() for key, value in state.items()}, folder / WEIGHTS)
    config = {"format": FORMAT, "name": name, "tokenizer": tokenizer.describe()}
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n")


def is_one(path: Path) -> bool:
    """Whether a path is such a folder, by its config."""
    config = read_config(path / CONFIG) if path.is_dir() else {}
    return isinstance(config.get("tokenizer"), dict) and "transformer" not in config


def load(folder: Path) -> Tokenizer:
    """Read such a folder; weights become fp32.

    Raises:
        InputError: a file is missing or damaged, or does not hold what the config says.
    """
    path = folder / CONFIG
    try:
        config = read_json(path)
        state = load_file(folder / WEIGHTS)
    except Exception as error:  # safetensors raises its own errors, one class per kind of damage
        raise InputError(f"{folder}: not a readable tokenizer ({error}); it holds {CONFIG} and {WEIGHTS}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT or not isinstance(config.get("tokenizer"), dict):
        raise InputError(f"{path}: not a tokenizer's config of format {FORMAT}")
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    return build(config["tokenizer"], state, f"{path}: tokenizer")
