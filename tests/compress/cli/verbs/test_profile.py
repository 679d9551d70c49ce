"""The command `profile`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result


def test_profile_shows_where_the_time_goes(engine: Path, invoke: Callable[..., Result]) -> None:
    result = invoke("profile", engine, "--json", "--threads", 1)
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert value["roofline"]["threads"] == 1
    assert {"attention", "feed-forward", "head"} <= {row["kind"] for row in value["rows"]}
    shown = invoke("profile", engine, "--threads", 1)
    assert "of the limit" in shown.stdout
    assert "attention" in shown.stdout
