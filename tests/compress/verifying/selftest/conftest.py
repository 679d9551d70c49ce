"""Two of the sound engines, whose traces are remembered from one run of the suite to the next."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.verifying.selftest.bases import Base, build


@pytest.fixture(scope="package")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    """The causal engine as it is exported, and fused."""
    return build(("plain", "fused"), Path(tmp_path_factory.mktemp("bases")))
