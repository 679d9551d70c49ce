"""Every recipe in recipes/ loads, and plans against the shipped model where it is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.models import families, zoo
from compress.models.tokenizer.vq import VqAutoencoder
from compress.recipe import plan, recipe
from compress.training.tokenizer import TokenizerRecipe
from compress.training.transformer import TrainRecipe

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
TRAINING = [path for path in RECIPES if path.stem.startswith("train-")]
COMPRESSION = [path for path in RECIPES if path not in TRAINING]


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The model of the recipes; where it is not shipped yet, an empty folder stands for it."""
    if "digits" not in zoo.names():
        monkeypatch.setattr(families, "locate", lambda checkpoint, where: tmp_path)


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("path", COMPRESSION, ids=lambda path: path.stem)
def test_a_recipe_loads_and_plans(path: Path) -> None:
    made = recipe.load(path)
    nodes = plan.make_plan(made, plan.load_tokens(made)).nodes
    assert len({node.name for node in nodes}) == len(nodes)
    assert path.read_text().startswith("# "), "its first line says what it is for"


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.stem)
def test_a_training_recipe_loads(path: Path) -> None:
    if "\ntokenizer:" in path.read_text():
        VqAutoencoder(TokenizerRecipe.load(path).tokenizer)
    else:
        TrainRecipe.load(path).model.config()
