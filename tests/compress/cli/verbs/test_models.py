"""The command `models`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from compress.models import zoo

GOLDEN = Path(__file__).parents[3] / "data" / "golden"


def test_inspect_prints_what_names_and_shapes_say(invoke: Callable[..., Result]) -> None:
    result = invoke("models", "inspect", GOLDEN / "llamagen-c2i", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["family"], found["config"]["rotary_prefix"]) == ("llamagen", "zero")
    table = invoke("models", "inspect", GOLDEN / "llamagen-c2i").stdout
    assert "3 layers; 4 heads and 176 feed-forward units in each" in " ".join(table.split())


def test_what_the_files_do_not_say_is_stated(invoke: Callable[..., Result], refused: Callable[..., str]) -> None:
    result = invoke("models", "inspect", GOLDEN / "llamagen-c2i", "--set", "grid=[2, 8]", "--json")
    assert json.loads(result.stdout)["config"]["grid"] == [2, 8]
    assert refused("models", "inspect", GOLDEN / "rar", "--set", "heads").startswith("--set: 'heads' is not KEY=VALUE")
    said = refused("models", "inspect", GOLDEN / "rar", "--family", "rarr")
    assert said.endswith("'rarr' is not a family; did you mean 'rar'?")


def test_check_exits_with_1_if_something_differs(
    invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    from compress.verifying import golden

    row = golden.Compared("logits", "torch", 0.5, 1e-4)
    monkeypatch.setattr(golden, "compare", lambda source, path: [row])
    result = invoke("models", "check", GOLDEN / "rar")
    assert result.exit_code == 1
    assert "DIFFERS" in result.stdout
    monkeypatch.setattr(golden, "compare", lambda source, path: [golden.Compared("logits", "torch", 1e-6, 1e-4)])
    result = invoke("models", "check", GOLDEN / "rar", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)[0]["largest"] == 1e-6


def test_a_recipe_stands_for_its_model(invoke: Callable[..., Result], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: {{checkpoint: {GOLDEN / 'llamagen-c2i'}, config: {{grid: [2, 8]}}}}\n")
    found = json.loads(invoke("models", "inspect", recipe, "--json").stdout)
    assert found["config"]["grid"] == [2, 8]


def test_the_list_names_families_and_tokenizers(invoke: Callable[..., Result]) -> None:
    listed = json.loads(invoke("models", "--json").stdout)
    assert {"llamagen", "var", "halton-maskgit", "amused"} <= {each["name"] for each in listed["families"]}
    assert {"llamagen-vq", "var-vqvae"} <= {each["name"] for each in listed["tokenizers"]}


def test_models_says_so_where_none_is_shipped(
    invoke: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "ROOT", tmp_path)
    result = invoke("models")
    assert result.exit_code == 0
    assert result.stdout.startswith("no shipped model is here")
    assert "reference" in result.stdout
    assert json.loads(invoke("models", "--json").stdout)["models"] == []
