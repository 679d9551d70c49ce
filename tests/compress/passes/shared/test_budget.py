"""Budgets of formats, read."""

from __future__ import annotations

from compress.core.settings import parse
from compress.passes.shared.budget import Budget


def test_sizes_are_read():
    assert parse(Budget, {"bytes": "2MB"}, "budget").bytes_of(0) == 2_000_000
    assert parse(Budget, {"bytes": 1234}, "budget").bytes_of(0) == 1234
    assert parse(Budget, {"size": "25%"}, "budget").bytes_of(4000) == 1000
