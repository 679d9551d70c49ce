"""What the tests of builders share."""

from __future__ import annotations

import pytest

from export.building import process


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what builds with TensorRT for RTX where it is not installed."""
    if not process.installed():
        for item in items:
            if item.get_closest_marker("tensorrt_rtx"):
                item.add_marker(pytest.mark.skip(reason=process.missing()))
