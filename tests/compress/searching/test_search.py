"""A search: it ends with the best recipe and its engine, goes on where it was, and says what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from heard import Heard

import compress
from compress.core.listener import Silent
from compress.core.settings import InputError
from compress.core.store import Store
from compress.recipe import recipe as recipes
from compress.searching import search as driver
from compress.searching.goal import goal_of
from compress.searching.published import BEST, FRONT, PAGE, engine_folder, write
from compress.searching.search import search
from compress.searching.space import load


def again(searched, output: Path, *, budgets: dict[str, str] | None = None, trials: int = 4, seconds: float = 1e6):
    """The search once more."""
    goal = goal_of(budgets or {"kl": "50"}, ["latency"], {})
    return search(
        load(searched.space), goal, Store(searched.store), output, Silent(), seconds=seconds, most_trials=trials,
        write=write,
    )  # fmt: skip


def test_a_search_ends_with_its_best_trial_and_the_first_one_took_the_first_choices(searched) -> None:
    found = searched.found
    assert len(found.trials) == 4
    assert found.ended == "4 trials"
    assert found.trials[0].picked == {
        "prune-ffn.ratio": 0.25, "prune-heads used": True, "prune-heads.score": "magnitude",
    }  # fmt: skip
    kept = [each for each in found.trials if each.kept]
    assert found.best in kept
    compared = [each.trial for each in found.compared.rows] if found.compared else [each.number for each in kept]
    assert found.best.values[0] == min(each.values[0] for each in kept if each.number in compared)
    assert found.nearest is None
    assert found.best in found.front
    assert found.axes == ("latency", "kl")


def test_the_best_recipe_is_one_with_its_budget_as_gate_and_its_engine_draws(searched) -> None:
    path = searched.output / BEST
    made = recipes.load(path)
    assert made.gate == compress.recipe.gates.gate(kl=50.0)  # type: ignore[attr-defined]
    value = yaml.safe_load(path.read_text())
    assert value["passes"][0]["prune-ffn"]["ratio"] == searched.found.best.picked["prune-ffn.ratio"]
    folder = engine_folder(searched.output, searched.found.best)
    assert str(folder) in path.read_text()
    assert list(folder.parent.iterdir()) == [folder]
    engine = compress.load_engine(folder, threads=1)
    assert engine.generate([1, 2]).shape == (2, 8, 8, 1)
    assert engine.manifest.provenance["recipe"]["passes"]


def test_there_is_a_recipe_for_every_trial_of_the_front_and_a_page(searched) -> None:
    names = {path.name for path in (searched.output / FRONT).iterdir()}
    assert names == {f"trial-{each.number}.yaml" for each in searched.found.front}
    assert all(recipes.load(path).engines for path in (searched.output / FRONT).iterdir())
    assert (searched.output / PAGE).read_text().startswith("<!doctype html>")


def test_the_same_search_again_tries_nothing_and_writes_what_is_missing(searched, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(driver, "evaluate", lambda *args: pytest.fail("tried again"))
    found = again(searched, tmp_path / "out")
    assert found.trials == searched.found.trials
    assert (tmp_path / "out" / BEST).exists()
    assert engine_folder(tmp_path / "out", found.best).is_dir()
    assert again(searched, tmp_path / "out", trials=99, seconds=0.001).ended.endswith("s of trials")


def test_budgets_that_nothing_reaches_end_with_the_nearest_trial_and_what_it_lacks(searched, tmp_path: Path) -> None:
    found = again(searched, tmp_path / "out", budgets={"size": "1kB"}, trials=2)
    assert found.best is None
    assert found.nearest.excess == min(each.excess for each in found.trials)
    assert "size" in found.nearest.lacks[0]
    assert not (tmp_path / "out" / BEST).exists()
    page = (tmp_path / "out" / PAGE).read_text()
    assert "No trial keeps every budget" in page
    assert f"Trial {found.nearest.number} lacks: " in page


def test_an_error_of_the_machine_ends_the_search_and_the_trial_is_tried_again(
    searched, tmp_path: Path, monkeypatch
) -> None:
    real = driver.evaluate

    def full(*args):
        raise InputError("store: the disk is full")

    monkeypatch.setattr(driver, "evaluate", full)
    with pytest.raises(InputError, match="the disk is full"):
        again(searched, tmp_path / "out", budgets={"kl": "49"}, trials=1)
    monkeypatch.setattr(driver, "evaluate", real)
    found = again(searched, tmp_path / "out", budgets={"kl": "49"}, trials=1)
    assert found.trials[0].picked == searched.found.trials[0].picked


def test_an_onnx_graph_and_a_reference_that_shows_no_drift_are_refused(searched, tmp_path: Path, monkeypatch) -> None:
    from compress.searching import workshop

    monkeypatch.setattr(workshop.Measuring, "evidence", lambda self: unsound())
    with pytest.raises(InputError, match="the reference: this is no evidence: it guesses"):
        again(searched, tmp_path / "out", budgets={"kl": "48"})
    monkeypatch.setattr(driver, "check", lambda space: graph())
    with pytest.raises(InputError, match="is an ONNX graph; a search tries passes of a model in PyTorch"):
        again(searched, tmp_path / "out")


def unsound():
    """Evidence that is none."""
    from types import SimpleNamespace

    return SimpleNamespace(sound=False, contrast=0.0, reason="it guesses")


def graph():
    """A recipe of a graph."""
    from types import SimpleNamespace

    from compress.models.artifact import Form

    return SimpleNamespace(form=Form.ONNX, seed=0)


@pytest.mark.slow
def test_with_a_store_at_a_url_the_study_rests_on_this_machine_and_trials_share_artifacts(
    searched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goal, url, said = goal_of({"kl": "50"}, ["size"], {}), f"file://{tmp_path}/shared", {}
    for name in "ab":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        store, listener = Store(url), Heard()
        found = search(
            load(searched.space), goal, store, tmp_path / f"out-{name}", listener, seconds=1e6, most_trials=1,
            write=write,
        )  # fmt: skip
        said[name] = listener.lines
        assert Path(found.study).is_relative_to(tmp_path / name / "compress")
        assert Path(found.study).is_file()
        assert f"study: {found.study}, on this machine alone; trials' artifacts and measurements are in {url}" in (
            listener.lines
        )
    assert any(": made " in line for line in said["a"])
    assert any(": reused " in line for line in said["b"])
    assert not any(": made " in line for line in said["b"])


def test_python_searches_as_the_verb_does_and_says_where_everything_is(searched, tmp_path: Path) -> None:
    found = compress.search(
        searched.space, budgets={"kl": 50}, trials=4, output=tmp_path / "out", store=searched.store
    )  # fmt: skip
    assert found.trials == searched.found.trials
    assert found.best == searched.found.best
    assert recipes.load(Path(found.recipe)).engines
    assert compress.load_engine(found.engine, threads=1).manifest
    assert Path(found.page).is_file()
    assert found.front == searched.found.front


def test_python_is_refused_what_the_verb_refuses(searched) -> None:
    for wrong, said in (
        ({"budgets": {"kll": 1}}, "--budget: unknown key 'kll'"),
        ({"minimize": ["size", "size"]}, "--minimize size: stands twice"),
        ({"budgets": {"kl": 1}, "seconds": 0}, "seconds: 0 is not above 0"),
        ({"budgets": {"kl": 1}, "trials": 0}, "trials: 0 is not 1 or more"),
        ({}, "--minimize latency: nothing holds it back"),
    ):
        with pytest.raises(InputError, match=said):
            compress.search(searched.space, **wrong)
    with pytest.raises(InputError, match="no shipped space of this name"):
        compress.search("digts", budgets={"kl": 1})
