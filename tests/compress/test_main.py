"""How the command starts."""

from __future__ import annotations

import os
import sys

import pytest

from compress.__main__ import main


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        pytest.param("GOMP_SPINCOUNT", None, "3000", id="OpenMP's threads spin briefly"),
        pytest.param("GOMP_SPINCOUNT", "7", "7", id="or as told"),
        pytest.param("ORT_DISABLE_TELEMETRY", None, "1", id="ONNX Runtime reports nothing"),
        pytest.param("ORT_DISABLE_TELEMETRY", "0", "0", id="unless told to"),
    ],
)
def test_libraries_are_told_how_to_behave_unless_the_user_says_otherwise(
    name, given, kept, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(sys, "argv", ["compress", "--version"])
    monkeypatch.setenv(name, given or "")
    if given is None:
        monkeypatch.delenv(name)
    with pytest.raises(SystemExit, match="0"):
        main()
    assert os.environ[name] == kept
    assert capsys.readouterr().out
