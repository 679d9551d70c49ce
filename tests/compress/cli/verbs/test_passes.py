"""The command `passes`."""

from __future__ import annotations

import json
from collections.abc import Callable

from click.testing import Result


def test_passes_lists_all_or_the_settings_of_one(invoke: Callable[..., Result], refused: Callable[..., str]) -> None:
    assert "prune-heads" in invoke("passes").stdout
    assert "share of the heads to remove [0 to 1]" in invoke("passes", "prune-heads").stdout
    (row,) = json.loads(invoke("passes", "distill", "--json").stdout)
    assert row["settings"][0]["name"] == "steps"
    assert refused("passes", "distil").endswith("did you mean 'distill'?")
