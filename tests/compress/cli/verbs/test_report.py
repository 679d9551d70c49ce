"""The command `report`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result


def test_report_shows_a_finished_run_again(shared_run, invoke: Callable[..., Result]) -> None:
    result = invoke("report", shared_run.output)
    assert result.exit_code == 0
    assert "passed: every gate was kept" in result.stdout
    value = json.loads(invoke("report", shared_run.output, "--json").stdout)
    assert value == json.loads((shared_run.output / "report.json").read_text())


def test_a_page_of_a_report_with_a_recipe_of_another_form_is_one_line(
    shared_run, tmp_path: Path, refused: Callable[..., str]
) -> None:
    value = json.loads((shared_run.output / "report.json").read_text())
    value["recipe"]["tokens"] = 3
    (tmp_path / "report.json").write_text(json.dumps(value))
    line = refused("report", tmp_path, "--open")
    assert line.startswith(f"{tmp_path}/report.json: holds what no page can show ('int' object has no attribute 'get'")


def test_report_wants_a_run(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert refused("report", tmp_path).startswith(f"{tmp_path}/report.json: there is no report here")


def test_runs_are_compared_engine_by_engine(shared_run, tmp_path: Path, invoke: Callable[..., Result]) -> None:
    other = tmp_path / "other"
    other.mkdir()
    changed = json.loads((shared_run.output / "report.json").read_text())
    changed["recipe"]["seed"] = 7
    (other / "report.json").write_text(json.dumps(changed))
    result = invoke("report", "--compare", other, shared_run.output, "--json")
    found = json.loads(result.stdout)
    assert list(found["engines"]) == [str(other), str(shared_run.output)], "in the order that was asked for"
    assert [row["engine"] for rows in found["engines"].values() for row in rows] == ["cpu", "cpu"]
    assert found["differences"] == [["recipe.seed", "7", "0"]]
    page = tmp_path / "both.html"
    shown = invoke("report", other, shared_run.output, "--compare", "-o", page)
    assert shown.exit_code == 0
    assert "recipe.seed" in shown.stdout
    assert "recipe.seed" in page.read_text()


def test_report_says_how_many_runs_it_takes(shared_run, tmp_path: Path, refused: Callable[..., str]) -> None:
    run = shared_run.output
    assert "--compare compares several runs" in refused("report", "--compare", run)
    assert "--compare belongs to several runs" in refused("report", run, run)
    assert "--output goes with --compare" in refused("report", run, "-o", tmp_path / "page.html")


def test_a_report_opens_in_the_browser(
    shared_run, invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert invoke("report", shared_run.output, "--open").exit_code == 0
    assert opened == [(shared_run.output / "report.html").resolve().as_uri()]


def test_run_prints_the_report_as_json(finished, invoke: Callable[..., Result]) -> None:
    result = invoke("run", finished.recipe, "--store", finished.store, "-o", finished.output, "--json")
    assert json.loads(result.stdout) == json.loads((finished.output / "report.json").read_text())


def test_figures_of_a_run_and_curves_of_a_training_are_written_as_files(
    shared_run, tmp_path: Path, invoke: Callable[..., Result]
) -> None:
    found = json.loads(invoke("report", shared_run.output, "--figures", tmp_path / "figures", "--json").stdout)
    assert any(name.endswith("drift-by-layer.svg") for name in found["figures"])
    assert all(Path(name).is_file() for name in found["figures"])
    (tmp_path / "training.json").write_text(json.dumps({"log": [{"step": 9, "loss": 2.0, "validation": 1.5}]}))
    done = invoke("report", tmp_path, "--figures", tmp_path)
    assert done.stdout.split() == [f"{tmp_path}/loss-while-training.svg", f"{tmp_path}/loss-while-training.csv"]
