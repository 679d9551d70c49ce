"""The command `plan`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from click.testing import Result


def test_plan_shows_the_chain_and_what_would_be_reused(finished, invoke: Callable[..., Result]) -> None:
    path = finished.changed(("steps: 90", "steps: 95"))
    result = invoke("plan", path, "--store", finished.store)
    assert result.exit_code == 0
    rows = [re.split(r"\s{2,}", line.strip()) for line in result.stdout.splitlines()[3:] if line]
    assert [row[0].strip() for row in rows] == ["reference", "prune-heads", "distill", "quantize", "cpu.export"]
    assert [row[1].strip() for row in rows] == ["torch"] * 4 + ["onnx"]
    assert rows[2][3].strip() == "settings changed: steps 90 -> 95"
    steps = json.loads(invoke("plan", path, "--store", finished.store, "--json").stdout)
    assert steps["preflight"] is None
    assert [len(step["key"]) for step in steps["steps"]] == [64] * 5


def test_plan_rehearses_the_chain_when_asked(
    finished, invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    from compress.recipe.preflight import RunCost

    monkeypatch.setattr("compress.recipe.preflight.rehearse", lambda *arguments: RunCost(1.0, 60.0, 500.0, 20.0))
    result = invoke("plan", finished.recipe, "--store", finished.store, "--preflight")
    assert result.stdout.splitlines()[-1].endswith("needs about 60 s, 500 MiB of memory, 20 MiB of disk")
    value = json.loads(invoke("plan", finished.recipe, "--store", finished.store, "--preflight", "--json").stdout)
    assert value["preflight"]["seconds"] == 60
