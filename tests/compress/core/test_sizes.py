"""Sizes as people write them."""

from __future__ import annotations

import pytest

from compress.core.settings import InputError
from compress.core.sizes import parse_size


@pytest.mark.parametrize(
    ("text", "size"), [("12", 12), ("2GiB", 2**31), ("500 MB", 500_000_000), ("1.5kb", 1500), ("3B", 3)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text, "gc") == size


@pytest.mark.parametrize("text", ["", "GB", "two GB", "-1", "1TB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^--max-size: '.*' is not a size like 500MB or 2GiB"):
        parse_size(text, "--max-size")
