"""The command `bench`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result


@pytest.mark.parametrize("verb", ["bench", "profile"])
def test_more_pictures_at_once_than_memory_holds_are_refused_before_anything_is_made(
    engine: Path, refused: Callable[..., str], verb: str
) -> None:
    line = refused(verb, engine, "--batch", 10**20)
    assert f"batch {10**20}: so many pictures at once take about" in line


def test_bench_prints_a_row_for_each_engine_and_batch(
    engine: Path, checkpoint: Path, invoke: Callable[..., Result]
) -> None:
    arguments = ("bench", engine, checkpoint, "--batch", "1,2", "--repeats", 6, "--threads", 1)
    rows = json.loads(invoke(*arguments, "--json").stdout)
    assert [(row["engine"], row["speed"]["batch"]) for row in rows] == [
        (str(name), batch) for batch in (1, 2) for name in (engine, checkpoint)
    ]
    result = invoke("bench", engine, "--batch", "1", "--repeats", 6, "--threads", 1)
    assert "1 thread, at least 6 interleaved rounds; the first engine is the reference" in result.stdout


def test_bench_refuses_no_batch_and_too_few_rounds(
    engine: Path, refused: Callable[..., str], invoke: Callable[..., Result]
) -> None:
    assert refused("bench", engine, "--batch", "0") == "--batch: 0 is out of range; it must be at least 1"
    assert invoke("bench", engine, "--repeats", 5).exit_code == 2


def test_a_checkpoint_is_not_timed_beside_engines_on_a_device(engine: Path, refused: Callable[..., str]) -> None:
    assert refused("bench", "digits", engine, "--device", "cuda") == (
        "--device: digits is no engine; PyTorch runs it, on the CPU"
    )
