"""The command `schema`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result


@pytest.mark.parametrize("kind", ["recipe", "training", "report"])
def test_a_schema_is_printed_or_written(invoke: Callable[..., Result], tmp_path: Path, kind: str) -> None:
    printed = invoke("schema", kind).stdout
    said = invoke("schema", kind, "-o", str(tmp_path / "x.json")).stdout
    assert (tmp_path / "x.json").read_text() == printed
    assert json.loads(printed)["$schema"].endswith("2020-12/schema")
    assert said.startswith(str(tmp_path / "x.json"))
    assert ("# yaml-language-server: $schema=" in said) == (kind != "report")


def test_a_schema_that_does_not_exist_is_refused(invoke: Callable[..., Result]) -> None:
    result = invoke("schema", "recipes")
    assert result.exit_code == 2
    assert "'recipe', 'training', 'report'" in result.stderr
