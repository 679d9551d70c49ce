"""The trained models that ship with the project, one folder each."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parent


def folders() -> list[str]:
    """Everything that ships: models, and tokenizers alone."""
    return sorted(path.parent.name for path in ROOT.glob("*/config.json"))


def names() -> list[str]:
    """The models that ship; a tokenizer alone is none."""
    return [
        path.parent.name for path in sorted(ROOT.glob("*/config.json")) if "transformer" in json.loads(path.read_text())
    ]
