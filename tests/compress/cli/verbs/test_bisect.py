"""The command `bisect`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from click.testing import Result


def test_bisect_names_where_an_engine_departs(engine: Path, checkpoint: Path, invoke: Callable[..., Result]) -> None:
    result = invoke("bisect", engine, engine, "--pictures", 2, "--threads", 1)
    assert result.exit_code == 0, result.output
    assert "nothing departs" in result.stdout
    other = invoke("bisect", checkpoint, engine, "--pictures", 2, "--threads", 1, "--json")
    assert other.exit_code == 1
    assert json.loads(other.stdout)["departs"] == "embedding", "it was distilled"


def test_bisect_draws_the_error_of_each_layer(
    engine: Path, checkpoint: Path, tmp_path: Path, invoke: Callable[..., Result], refused: Callable[..., str]
) -> None:
    plot = tmp_path / "layers.svg"
    assert invoke("bisect", checkpoint, engine, "--pictures", 2, "--threads", 1, "--plot", plot).exit_code == 1
    assert ElementTree.parse(plot).getroot().get("aria-label") == "Drift by layer"
    assert "must end in .svg" in refused("bisect", checkpoint, engine, "--plot", tmp_path / "layers.png")
