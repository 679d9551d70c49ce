"""The verbs that drive a recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result


def test_run_ends_with_a_table_and_where_everything_lies(finished, invoke: Callable[..., Result]) -> None:
    result = invoke("run", finished.recipe, "--store", finished.store, "-o", finished.output)
    assert result.exit_code == 0
    assert "passed: every gate was kept" in result.stdout
    assert result.stdout.splitlines()[-3:] == [
        f"engine cpu: {finished.output}/engines/cpu",
        f"pictures: {finished.output}/pictures-cpu.png  (reference and cpu, same classes and seeds)",
        f"report: {finished.output}/report.html, report.md and report.json",
    ]
    assert "distill: reused" in result.stderr


def test_run_prints_the_report_as_json(finished, invoke: Callable[..., Result]) -> None:
    result = invoke("run", finished.recipe, "--store", finished.store, "-o", finished.output, "--json")
    assert json.loads(result.stdout) == json.loads((finished.output / "report.json").read_text())


def test_run_writes_into_runs_by_default(
    finished, invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke("run", finished.recipe, "--store", finished.store).exit_code == 0
    assert (tmp_path / "runs" / "tiny" / "report.md").exists()


def test_plan_shows_the_chain_and_what_would_be_reused(finished, invoke: Callable[..., Result]) -> None:
    path = finished.changed(("steps: 90", "steps: 95"))
    result = invoke("plan", path, "--store", finished.store)
    assert result.exit_code == 0
    rows = [line.split("│")[1:-1] for line in result.stdout.splitlines() if line.startswith("│")]
    assert [row[0].strip() for row in rows] == ["reference", "prune-heads", "distill", "quantize", "cpu.export"]
    assert [row[1].strip() for row in rows] == ["torch"] * 4 + ["onnx"]
    assert rows[2][3].strip() == "settings changed: steps 90 -> 95"
    steps = json.loads(invoke("plan", path, "--store", finished.store, "--json").stdout)
    assert steps["preflight"] is None
    assert [len(step["key"]) for step in steps["steps"]] == [64] * 5


def test_plan_rehearses_the_chain_when_asked(
    finished, invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    from compress.recipe.preflight import Estimate

    monkeypatch.setattr("compress.recipe.preflight.rehearse", lambda *arguments: Estimate(1.0, 60.0, 500.0, 20.0))
    result = invoke("plan", finished.recipe, "--store", finished.store, "--preflight")
    assert result.stdout.splitlines()[-1].endswith("needs about 60 s, 500 MiB of memory, 20 MiB of disk")
    value = json.loads(invoke("plan", finished.recipe, "--store", finished.store, "--preflight", "--json").stdout)
    assert value["preflight"]["seconds"] == 60


def test_train_says_what_it_reached(tmp_path: Path, tiny_tokens, invoke: Callable[..., Result]) -> None:
    tiny_tokens.save(tmp_path / "t.npz")
    recipe = tmp_path / "train.yaml"
    recipe.write_text(
        f"name: mini\ntokens: {tmp_path}/t.npz\n"
        "model: {grid: [8, 8], vocabulary: 17, classes: 10, width: 16, layers: 1, heads: 2, head_width: 8, ffn: 16}\n"
        "train: {steps: 2, batch: 8, validate_every: 2, threads: 1}\n"
    )
    result = invoke("train", recipe, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert result.stdout == f"{tmp_path}/out: held-out NLL {record['held_out_nll']:.4f} nats per token\n"
    again = invoke("train", recipe, "-o", tmp_path / "again", "--json")
    assert json.loads(again.stdout)["held_out_nll"] == record["held_out_nll"]
