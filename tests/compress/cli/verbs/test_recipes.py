"""The command `recipes`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

from compress.recipe import shipped


def test_recipes_lists_all_with_the_verb_that_takes_them(invoke: Callable[..., Result]) -> None:
    rows = {row["name"]: row for row in json.loads(invoke("recipes", "--json").stdout)}
    assert rows.keys() == set(shipped.names())
    assert rows["quickstart"]["verb"] == "run"
    assert rows["train-digits"]["verb"] == "train"
    assert rows["emoji-masked"]["doc"].startswith("The shipped masked model")
    assert all(row["doc"].endswith(".") for row in rows.values())
    assert "quickstart" in invoke("recipes").stdout


def test_a_recipe_is_printed_as_it_is(invoke: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(invoke("recipes", "quickstart").stdout)
    assert (tmp_path / "mine.yaml").read_text() == (shipped.ROOT / "quickstart.yaml").read_text()
    assert json.loads(invoke("plan", str(tmp_path / "mine.yaml"), "--json").stdout)["steps"]


def test_a_recipe_that_is_not_shipped_is_refused(refused: Callable[..., str]) -> None:
    assert refused("recipes", "quickstar").endswith("did you mean 'quickstart'?")


def test_a_recipe_of_the_other_verb_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    assert refused("run", "train-digits").endswith("this recipe trains a model; use  compress train")
    assert refused("plan", "train-digits").endswith("this recipe trains a model; use  compress train")
    trained = refused("train", "quickstart", "-o", str(tmp_path / "x"))
    assert trained.endswith("this recipe compresses a model; use  compress run")
