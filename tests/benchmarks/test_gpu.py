"""The GPU's benchmark: all of it that needs no GPU, on tiny shapes, and what it says where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gpu(monkeypatch):
    """The benchmark as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu

    return gpu


@pytest.mark.slow
def test_every_variant_of_every_order_computes_what_fp32_does(tmp_path):
    path = tmp_path / "gpu.json"
    asked = ["--device", "cpu", "--shape", "tiny", "tiny-scales", "tiny-masked", "--rows", "2", "--json", str(path)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *asked],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert found["machine"]["gpu"] is None
    assert found["left_out"] == []
    rows = {(row["shape"], row["what"], row["variant"]): row for row in found["rows"]}
    assert len(rows) == 3 * 8 + 5
    assert not [row for row in rows.values() if "failed" in row["note"] or "WRONG" in row["note"]]
    assert all(0 <= row["kl"] < 0.02 for row in rows.values() if "kl" in row)
    eager = rows["tiny", "step at 8", "eager"]
    assert eager["x_eager"] == 1
    assert eager["x_floor"] == pytest.approx(eager["ms"] / eager["floor_ms"])
    picture = rows["tiny", "picture", "CUDA graph"]
    assert picture["ms_per_token"] * 16 == picture["ms"]
    assert picture["floor_ms"] == pytest.approx(16 * eager["floor_ms"])
    assert "### tiny-scales, 2 rows, last scale" in done.stdout


def test_what_does_not_fit_into_the_budget_is_named(gpu, capsys):
    gpu.main(["--device", "cpu", "--shape", "tiny", "--rows", "2", "--seconds", "0"])
    said = capsys.readouterr().out
    assert "Left out: tiny, 2 rows: would take about 8 s, 0 s are left" in said
    assert "Left out: tiny, 2 rows, compiled: would take about 45 s, 0 s are left" in said


def test_without_a_gpu_it_says_that_it_needs_one(gpu, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as end:
        gpu.main([])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("gpu.py: PyTorch finds no CUDA device; ")


def test_a_variant_that_fails_or_computes_something_else_is_a_row_that_says_so(gpu, monkeypatch):
    import gpu_limits
    import gpu_steps

    device = torch.device("cpu")
    monkeypatch.setattr(gpu, "PLAIN", gpu.PLAIN[:4])
    monkeypatch.setattr(gpu_steps, "PackedFeedForward", lambda inner: 1 / 0)
    monkeypatch.setattr(gpu_steps, "rotate", lambda x, cosine, sine: x)
    with torch.no_grad():
        rows = gpu.job(gpu.Work("tiny", device, 1), 1, False, gpu_limits.Limits(1.0, 1.0, None))
    notes = {row["variant"]: row["note"] for row in rows}
    assert notes["eager"] == ""
    assert notes["CUDA graph"].startswith("WRONG: KL ")
    assert notes["CUDA graph, packed"] == "failed: ZeroDivisionError: division by zero"


def test_the_least_a_step_must_do_is_counted_by_hand(gpu):
    import gpu_limits

    work = gpu.Work("tiny", torch.device("cpu"), 1)
    per_layer = 4 * 64 * 64 + 3 * 64 * 128
    weights, norms = 2 * per_layer + 64 * 64, 5 * 64
    cache = 2 * 2 * 3 * 9 * 64  # two layers, keys and values, three rows, eight positions and the new one
    cost = gpu_limits.cost(work.model, "fp8", 3, before=8, count=1)
    assert cost.bytes == weights + 2 * (norms + cache + 3 * 64)
    assert cost.product_flops == 2 * 3 * weights
    assert cost.attention_flops == 4 * 2 * 3 * 9 * 64
    limits = gpu_limits.Limits(copy_gb_per_s=1.0, bf16_tflops=1e-3, fp8_tflops=2e-3)
    assert cost.floor_ms(limits) == pytest.approx(
        max(cost.bytes / 1e6, cost.product_flops / 2e6 + cost.attention_flops / 1e6)
    )
