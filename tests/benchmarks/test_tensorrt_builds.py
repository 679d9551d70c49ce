"""The table of built plans in the documentation is what the builder says today."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tensorrt.md"
MODELS = ["taming-mingpt", "var"]


def rows_of(page: str) -> dict[str, list[str]]:
    """The cells of each row of int8 by the model's name, without sizes and times."""
    table = page.split("<!-- builds -->")[1].split("<!-- end of builds -->")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]
    return {row[0]: row[2:9] for row in cells if row[1] == "int8"}


@pytest.mark.slow
@pytest.mark.tensorrt_rtx
def test_the_table_of_built_plans_is_what_the_builder_says(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- builds -->\n<!-- end of builds -->\nafter\n")
    script = [sys.executable, str(ROOT / "benchmarks" / "tensorrt_builds.py")]
    made = subprocess.run(
        [*script, "--models", *MODELS, "--formats", "int8", "--markdown", str(page), "--json", str(tmp_path / "rows")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-2000:]
    assert (page.read_text().startswith("before\n"), page.read_text().endswith("\nafter\n")) == (True, True)
    documented, found = rows_of(PAGE.read_text(encoding="utf-8")), rows_of(page.read_text())
    assert {f"`{name}`" for name in MODELS} == found.keys()
    for name, row in found.items():
        assert row == documented[name], name
    assert [each["model"] for each in json.loads((tmp_path / "rows").read_text())] == MODELS
