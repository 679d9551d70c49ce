"""Tests of tracing trace."""

from __future__ import annotations

import pytest
import torch
from remembered_traces import Export


@pytest.fixture(autouse=True)
def traced_anew(fresh_export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test exports itself is traced, not remembered."""
    monkeypatch.setattr(torch.onnx, "export", fresh_export)
