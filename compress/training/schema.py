"""The JSON schema of a recipe of `compress train`: of a transformer, or of an image tokenizer."""

from __future__ import annotations

from typing import Any

from compress.core.json_schema import DIALECT, Schemas
from compress.training.tokenizer import TokenizerRecipe
from compress.training.transformer import TrainRecipe


def schema() -> dict[str, Any]:
    """The schema; a `tokenizer` block makes it one of a tokenizer, a `model` block one of a transformer."""
    schemas = Schemas(given=True)
    kinds = [schemas.define(cls) for cls in (TrainRecipe, TokenizerRecipe)]
    return {"$schema": DIALECT, "title": "training recipe of compress", "anyOf": kinds, "$defs": schemas.definitions}
