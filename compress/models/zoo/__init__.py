"""The trained models that ship with the project, one folder each."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent


def names() -> list[str]:
    """The models that ship."""
    return sorted(path.parent.name for path in ROOT.glob("*/config.json"))
