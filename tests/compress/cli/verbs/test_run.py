"""The command `run`."""

from __future__ import annotations

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


def test_run_writes_into_runs_by_default(
    finished, invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke("run", finished.recipe, "--store", finished.store).exit_code == 0
    assert (tmp_path / "runs" / "tiny" / "report.md").exists()
