"""A recipe whose store is at a URL, run on two machines that share nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from compress.core.store import Store


def hashes(folder: Path) -> dict[str, str]:
    """The files of an engine, without the manifest, which holds times."""
    files = (path for path in folder.iterdir() if path.is_file() and path.name != "manifest.json")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
def test_a_second_machine_makes_and_measures_nothing_again(
    checkpoint: Path,
    small_recipe: Callable[[Path, Path], Path],
    invoke: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, url = tmp_path / "r.yaml", f"file://{tmp_path}/shared"
    small_recipe(checkpoint, recipe)
    lines, engines, reports = {}, {}, {}
    for name in "ab":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        result = invoke("run", recipe, "--store", url, "-o", tmp_path / f"run-{name}", "--skip-preflight")
        assert result.exit_code == 0, result.output
        lines[name] = [
            line.split()[-2] for line in result.stderr.splitlines() if ": made" in line or ": reused" in line
        ]
        engines[name] = hashes(tmp_path / f"run-{name}" / "engines" / "cpu")
        reports[name] = json.loads((tmp_path / f"run-{name}" / "report.json").read_text())
    assert set(lines["a"]) == {"made"}
    assert set(lines["b"]) == {"reused"}
    assert engines["a"] == engines["b"]
    assert reports["a"]["engines"][0]["speed"] == reports["b"]["engines"][0]["speed"], "it was measured once"
    rows = json.loads(invoke("store", "list", "--store", url, "--json").stdout)
    assert {row["pass"] for row in rows} == {"prune-ffn", "export"}
    assert any(row["needed_by"] == [str(recipe)] for row in rows)
    assert not any(row["work"] for row in rows)
    plan = json.loads(invoke("plan", recipe, "--store", url, "--json").stdout)["steps"]
    assert {row["reason"] for row in plan[1:]} == {"reused"}
    assert {name.partition("/")[0] for name in Store(url).backend.objects.listed("")} == {
        "format", "artifacts", "measurements", "users",
    }  # fmt: skip
