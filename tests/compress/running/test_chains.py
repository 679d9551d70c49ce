"""The engines of a recipe, made and verified by workers side by side."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compress.core.listener import Silent
from compress.core.settings import InputError
from compress.core.store import Store
from compress.measure.speed.timing import SpeedRow
from compress.recipe import plan as plans
from compress.recipe import recipe
from compress.running import chains, pipeline
from compress.workers.place import Place

RECIPE = """\
model:  {{checkpoint: {checkpoint}}}
tokens: {{source: digits, calibration: 16, held_out: 20}}
bench:  {{batch: [1], threads: 1, repeats: 6, samples: 20}}
passes:
  - prune-ffn: {{ratio: 0.25, score: magnitude}}
engines:
  plain: [export: {{target: onnxruntime}}]
  small: [quantize: {{weights: int8, activations: int8, dynamic: true}}, export: {{target: onnxruntime}}, fuse: {{}}]
gate: {{kl: 50}}
"""
TIMES = ("speed", "pays", "low_precision_share", "sha256")


@pytest.fixture
def path(checkpoint: Path, tmp_path: Path) -> Path:
    """A recipe of two chains."""
    path = tmp_path / "two.yaml"
    path.write_text(RECIPE.format(checkpoint=checkpoint))
    return path


class Heard(Silent):
    """A listener that keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def without_times(report: Any) -> Any:
    """A report without what depends on the clock or on where it was written."""
    if isinstance(report, dict):
        return {key: without_times(value) for key, value in report.items() if key not in (*TIMES, "command", "notes")}
    return [without_times(each) for each in report] if isinstance(report, list) else report


def said(folder: Path) -> Any:
    return without_times(json.loads((folder / "report.json").read_text()))


@pytest.mark.slow
def test_two_workers_report_what_one_process_does(path: Path, tmp_path: Path) -> None:
    loaded, heard = recipe.load(path), Heard()
    for name, place in (("one", None), ("two", Place(2))):
        store = Store(tmp_path / f"store-{name}")
        pipeline.run(loaded, store, tmp_path / name, heard, preflight=False, place=place)
    assert said(tmp_path / "one") == said(tmp_path / "two")
    report = json.loads((tmp_path / "two" / "report.json").read_text())
    assert all(SpeedRow(**row).median_ms > 0 for engine in report["engines"] for row in engine["speed"])
    made = [line for line in heard.lines if ": made " in line and line.startswith("engine ")]
    assert {line.split(": ")[0] for line in made} == {"engine plain", "engine small"}
    assert not any("reused" in line for line in heard.lines), "what workers made is not told twice"
