"""What tests of the commands share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def engine(shared_run) -> Path:
    """The engine of the finished run."""
    return shared_run.output / "engines" / "cpu"
