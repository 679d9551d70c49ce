"""Engines timed against each other."""

from __future__ import annotations

from pathlib import Path

from compress.verifying.bench import bench


def test_the_first_of_a_bench_is_the_reference(shared_run, checkpoint: Path) -> None:
    engine = str(shared_run.output / "engines" / "cpu")
    rows = bench([engine, str(checkpoint)], [1], repeats=6, threads=1)
    assert [(row.engine, row.speed.runtime) for row in rows] == [
        (engine, "onnxruntime"),
        (str(checkpoint), "torch eager"),
    ]
    assert rows[0].speed.speedup_vs_reference is None
    assert 0 < rows[1].speed.speedup_vs_reference < 1
