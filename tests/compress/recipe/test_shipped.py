"""Shipped recipes have names; a file comes before a name."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.core.settings import InputError
from compress.core.strict_yaml import read_yaml
from compress.recipe import recipe
from compress.recipe.gates import read_gate
from compress.recipe.shipped import GATES, ROOT, SPACES, located, located_gates, names
from compress.verifying.comparison import check_gate


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


def test_the_sets_of_gates_of_the_checkout_are_shipped() -> None:
    checkout = Path(__file__).parents[3] / "recipes" / "gates"
    assert names(GATES) == sorted(path.stem for path in checkout.glob("*.yaml")) == ["exact", "lossy"]


def test_the_spaces_of_the_checkout_are_shipped() -> None:
    checkout = Path(__file__).parents[3] / "recipes" / "spaces"
    assert names(SPACES) == sorted(path.stem for path in checkout.glob("*.yaml")) == ["digits"]


@pytest.mark.parametrize("name", ["exact", "lossy"])
def test_a_shipped_set_of_gates_limits_what_verify_measures(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    gate = read_gate(read_yaml(located_gates(name)), f"{name}:")
    check_gate(gate)
    limits = {key.limit.key: limit for key, limit in gate.limits.items()}
    assert {"kl", "worst_class_kl", "worst_position_kl", "worst_token_shift", "agreement", "loop_kl"} < set(limits)
    assert gate.unmeasured == "kept"
    page = (
        (Path(__file__).parents[3] / "docs" / "measuring.md").read_text(encoding="utf-8").split("### Starting gates")[1]
    )
    for key in limits:
        assert f"| `{key}` |" in page


def test_exact_is_stricter_than_lossy() -> None:
    exact, lossy = (read_gate(read_yaml(located_gates(name)), f"{name}:").limits for name in ("exact", "lossy"))
    for key in exact.keys() & lossy.keys():
        assert exact[key] >= lossy[key] if key.quantity.better == "higher" else exact[key] <= lossy[key]


def test_a_file_comes_before_a_shipped_set_of_gates(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("exact").write_text("kl: 1")
    assert located_gates("exact") == Path("exact")
    assert located_gates("lossy.yaml") == Path("lossy.yaml")
    with pytest.raises(InputError) as refused:
        located_gates("exakt")
    assert str(refused.value) == (
        "exakt: there is no such file, and no shipped set of gates of this name; did you mean 'exact'?"
    )
