"""What `make crash-test` does at 200 points, at a few of one job: killed, resumed, and equal to what was left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_training_that_is_killed_and_resumed_ends_with_the_same_bytes() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "crash.py"), "--points", "3", "--seed", "4", "--job", "train"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "3 kills (seed 4, " in done.stdout
    assert done.stdout.endswith("every result is equal\n")
