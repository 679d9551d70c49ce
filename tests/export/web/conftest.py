"""onnxruntime-web for the tests of sites, where it is to be had."""

from __future__ import annotations

import pytest

from export.web.ort_web import Files, RuntimeMissingError, obtain


@pytest.fixture(scope="session")
def runtime() -> Files:
    """Its files: from the cache, or by npm."""
    try:
        return obtain()
    except RuntimeMissingError as error:
        pytest.skip(str(error))
