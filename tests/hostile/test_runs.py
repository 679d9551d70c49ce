"""Whole runs that were wrong on some machines."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

STATIC = """\
model:  {{checkpoint: {folder}/model}}
tokens: {{source: {folder}/tokens.npz, calibration: 16, held_out: 12}}
bench:  {{batch: [1], threads: 1, repeats: 6, samples: 10}}
passes:
  - quantize: {{weights: int8, activations: int8}}
    gate:     {{kl: 50}}
engines:
  cpu: [export: {{target: onnxruntime}}, fuse: {{}}]
gate: {{kl: 50}}
"""


@pytest.mark.slow
def test_static_int8_is_exported_exactly_on_every_processor(
    corpus: Path, here: Path, invoke: Callable[..., Any]
) -> None:
    (here / "r.yaml").write_text(STATIC.format(folder=corpus))
    result = invoke("run", here / "r.yaml", "--skip-preflight", "--store", here / "store", "-o", here / "run")
    assert "this is a bug" not in result.output
    assert result.exit_code == 0, result.output[-2000:]


def test_one_picture_draws_the_same_in_another_folder_and_time_zone(
    corpus: Path, here: Path, process: Callable[..., Any]
) -> None:
    pictures = []
    for name, zone in (("a", "UTC"), ("b", "Asia/Tokyo")):
        folder = here / name
        folder.mkdir()
        os.symlink(corpus / "engine", folder / "engine")
        assert process("generate", folder / "engine", "--labels", 1, "-o", folder / "o.png", TZ=zone).returncode == 0
        pictures.append((folder / "o.png").read_bytes())
    assert pictures[0] == pictures[1]
