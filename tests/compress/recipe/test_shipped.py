"""Shipped recipes have names; a file comes before a name."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.core.settings import InputError
from compress.core.strict_yaml import read_yaml
from compress.recipe import recipe
from compress.recipe.shipped import ROOT, located, names


def test_every_recipe_of_the_checkout_is_shipped() -> None:
    checkout = Path(__file__).parents[3] / "recipes"
    assert names() == sorted(path.stem for path in checkout.glob("*.yaml"))
    assert "quickstart" in names()


@pytest.mark.parametrize("name", names())
def test_a_name_is_the_file_of_that_name_from_anywhere(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert located(name) == ROOT / f"{name}.yaml"
    if "passes" in read_yaml(located(name)):
        assert recipe.load(located(name)).name == name


def test_a_file_comes_before_a_name_and_a_folder_does_not(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quickstart").mkdir()
    assert located("quickstart") == ROOT / "quickstart.yaml"
    Path("fp8").write_text("seed: 1")
    assert located("fp8") == Path("fp8")


@pytest.mark.parametrize("path", ["a/quickstart", "quickstart.yaml", "/none/x.yaml", "..", "a\0b", "x" * 300, ""])
def test_what_is_no_name_is_a_path(path: str) -> None:
    assert located(path) == Path(path)


def test_a_name_that_nothing_has_is_refused_with_the_nearest(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = "quickstrat: there is no such file, and no shipped recipe of this name; did you mean 'quickstart'?"
    with pytest.raises(InputError) as refused:
        located("quickstrat")
    assert str(refused.value) == said
    Path("quickstrat").mkdir()
    assert located("quickstrat") == Path("quickstrat")
