"""A target from one file outside this project: the worked example of docs/targets.md, found by its entry points."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compress.core.listener import Silent
from compress.core.settings import InputError
from compress.core.store import Store
from compress.passes import PassError
from compress.passes.export import Export
from compress.passes.quantize import Quantize
from compress.recipe import recipe
from compress.running import pipeline
from export.runtime import deployment
from export.runtime.engine import Engine, EngineError

PAGE = (Path(__file__).parents[3] / "docs/targets.md").read_text(encoding="utf-8")
ENTRY_POINTS = """\
[compress.targets]
ahead = ahead:Ahead
[compress.deployments]
ahead = ahead:DEPLOYMENT
"""
RECIPE = """\
model:  {{checkpoint: {checkpoint}}}
tokens: {{source: digits, calibration: 16, held_out: 10}}
bench:  {{batch: [1], threads: 1, repeats: 6, samples: 10}}
passes:
  - quantize: {{weights: int8, activations: int8}}
engines:
  ahead: [export: {{target: ahead}}, fuse, build-engine]
gate: {{kl: 50}}
"""


@pytest.fixture
def ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the example's file and of what an installation writes beside it."""
    folder = tmp_path / "site"
    (folder / "ahead-1.0.dist-info").mkdir(parents=True)
    (folder / "ahead-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: ahead\nVersion: 1.0\n")
    (folder / "ahead-1.0.dist-info/entry_points.txt").write_text(ENTRY_POINTS)
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code is not None
    (folder / "ahead.py").write_text(code.group(1))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.delitem(sys.modules, "ahead", raising=False)
    return folder


@pytest.mark.slow
def test_a_recipe_exports_fuses_builds_and_draws_with_it(
    ahead: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ahead.yaml"
    path.write_text(RECIPE.format(checkpoint=checkpoint))
    report = pipeline.run(recipe.load(path), Store(tmp_path / "store"), tmp_path / "run", Silent(), preflight=False)
    (row,) = report.engines
    assert (row.target, row.not_built) == ("ahead", "")
    folder = tmp_path / "run/engines/ahead"
    engine = Engine.load(folder, threads=1)
    assert (engine.runtime, engine.runs_as_deployed) == ("ahead", True)
    built = engine.draw_tokens(np.arange(3), seed=5)
    plain = tmp_path / "plain"
    shutil.copytree(folder, plain)
    replace(engine.manifest, target="standard").save(plain)
    assert (built == Engine.load(plain, threads=1).draw_tokens(np.arange(3), seed=5)).all()

    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(ahead)])
    with pytest.raises(EngineError) as error:
        Engine.load(folder)
    assert str(error.value) == (
        f"{folder}/manifest.json: target: 'ahead' is not one of 'onnxruntime', 'standard', 'tensorrt'"
    )


def test_its_rules_and_its_lowering_are_those_of_an_export(
    ahead: Path, tiny_model: Callable, context: Callable
) -> None:
    dynamic = Quantize("int8", "int8", dynamic=True).run(tiny_model(layers=1), context()).model
    with pytest.raises(PassError) as error:
        Export("ahead").run(dynamic, context())
    assert str(error.value) == (
        "export: blocks.0.attention.query: ahead has no dynamic int8 activations; use static ones"
    )


def test_a_name_that_is_nearly_its_own_is_answered_with_it(ahead: Path, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "ahead.yaml"
    path.write_text(RECIPE.format(checkpoint=checkpoint).replace("target: ahead", "target: ahed"))
    with pytest.raises(InputError) as error:
        recipe.load(path)
    assert str(error.value).endswith(
        "target: 'ahed' is not one of 'onnxruntime', 'standard', 'tensorrt', 'ahead'; did you mean 'ahead'?"
    )


def test_the_page_names_the_entry_points_that_are_read() -> None:
    for group in (deployment.TARGETS, deployment.DEPLOYMENTS):
        assert f'[project.entry-points."{group}"]' in PAGE
