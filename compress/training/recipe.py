"""What `compress train` trains: a transformer or an image tokenizer, by what the recipe holds."""

from __future__ import annotations

from pathlib import Path

from compress.core.strict_yaml import read_yaml
from compress.training.loop import OnProgress
from compress.training.tokenizer import TokenizerRecipe, train_tokenizer
from compress.training.transformer import TrainRecipe
from compress.training.transformer import train as train_transformer
from compress.training.world import World


def load(path: Path) -> TrainRecipe | TokenizerRecipe:
    """Read and check a recipe; one with a `tokenizer` block and no `model` trains an image tokenizer.

    Raises:
        InputError: it is wrong.
    """
    content = read_yaml(path)
    if isinstance(content, dict) and "tokenizer" in content and "model" not in content:
        return TokenizerRecipe.load(path)
    return TrainRecipe.load(path)


def train(
    recipe: TrainRecipe | TokenizerRecipe, output: Path, world: World, report: OnProgress | None
) -> dict[str, float]:
    """Train, in one process or in one of several, and write what was trained; what it reached."""
    if isinstance(recipe, TokenizerRecipe):
        return train_tokenizer(recipe, output, report, world)
    return train_transformer(recipe, output, report, world)
