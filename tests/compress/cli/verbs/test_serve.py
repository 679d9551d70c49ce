"""`compress serve` refuses what it cannot serve before it listens."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def test_what_is_no_engine_is_refused(refused, tmp_path: Path) -> None:
    assert str(tmp_path) in refused("serve", tmp_path, "--port", 0)


def test_without_the_extra_the_command_that_installs_it_is_said(refused, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "starlette", None)
    assert refused("serve", tmp_path).endswith(
        "; pip install 'prometheus-client>=0.26' 'starlette>=1.10' 'uvicorn>=0.54'"
    )


@pytest.mark.parametrize(
    "wrong", ["--port=70000", "--workers=0", "--batch=0", "--deadline-ms=-1", "--queue=0", "--timeout=0", "--most=0"]
)
def test_numbers_out_of_range_are_refused(wrong: str, invoke, tmp_path: Path) -> None:
    result = invoke("serve", tmp_path, wrong)
    assert result.exit_code == 2
    assert wrong.partition("=")[0] in result.stderr


def test_an_option_of_a_provider_is_a_name_and_a_value(refused, tmp_path: Path) -> None:
    said = refused("serve", tmp_path, "--port", 0, "--provider-option", "fast")
    assert said == "--provider-option: 'fast' is not NAME=VALUE, like enable_cuda_graph=1"
