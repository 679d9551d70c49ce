"""A recipe for TensorRT on a machine without a GPU: plans are built, judged by their evidence, and not run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from compress.core.listener import Silent
from compress.core.store import Store
from compress.recipe import recipe
from compress.report.page.html import PAGE
from compress.running import pipeline
from export.building.process import installed
from export.runtime.engine import Engine

RECIPE = """\
model:  {{checkpoint: {checkpoint}}}
tokens: {{source: digits, calibration: 16, held_out: 10}}
bench:  {{batch: [1], threads: 1, repeats: 6, samples: 10}}
engines:
  rtx:
    - quantize: {{weights: int8, activations: int8}}
    - export: {{target: tensorrt}}
    - build-engine: {{builder: tensorrt-rtx, compute_capability: [8.9], max_rows: 4, required: true}}
gate: {{kl: 50, low_precision_products: 100%, caches_in_place: 100%, speedup: 1000, low_precision_share: 100%}}
"""


@pytest.mark.slow
@pytest.mark.tensorrt_rtx
def test_a_recipe_builds_plans_and_gates_how_they_compute(
    checkpoint: Path, tmp_path: Path, invoke: Callable[..., Result]
) -> None:
    path = tmp_path / "rtx.yaml"
    path.write_text(RECIPE.format(checkpoint=checkpoint))
    report = pipeline.run(recipe.load(path), Store(tmp_path / "store"), tmp_path / "run", Silent(), preflight=False)
    (row,) = report.engines
    assert report.verdict.passed, [breach.text for breach in report.verdict.breaches]
    assert row.not_built == ""
    built, after = row.not_run.split(" in ")
    assert built == f"by TensorRT for RTX {installed()} for compute capability 8.9"
    assert re.fullmatch(r"\d+\.\d s; ONNX Runtime ran the same graphs", after)
    plans = row.measures["plans"]
    assert (plans.low_precision_products, plans.caches_in_place) == (1, 1)
    assert row.speed == ()
    assert row.fidelity is not None
    for text in (tmp_path / "run" / "report.md", tmp_path / "run" / PAGE):
        assert "built, not run" in text.read_text()
        assert "products as asked" in text.read_text()
    folder = tmp_path / "run" / "engines" / "rtx"
    engine = Engine.load(folder, threads=1)
    assert set(engine.manifest.files) >= {"plan", "image_decoder_plan"}
    assert engine.manifest.build is not None

    judged = invoke("verify", checkpoint, folder, "--tokens", "digits", "--held-out", "4", "--gates",
                    write(tmp_path, "{low_precision_products: 100%, unmeasured: kept}"))  # fmt: skip
    assert judged.exit_code == 0, judged.output
    assert "low_precision_products" in judged.output


def write(folder: Path, text: str) -> Path:
    """A file of gates."""
    path = folder / "gates.yaml"
    path.write_text(text)
    return path
