"""How the command starts."""

from __future__ import annotations

import os
import sys

import pytest

from compress.__main__ import main


@pytest.mark.parametrize(("given", "kept"), [(None, "3000"), ("7", "7")])
def test_openmp_threads_spin_briefly_unless_the_user_says_otherwise(given, kept, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["compress", "--version"])
    monkeypatch.setenv("GOMP_SPINCOUNT", given or "")
    if given is None:
        monkeypatch.delenv("GOMP_SPINCOUNT")
    with pytest.raises(SystemExit, match="0"):
        main()
    assert os.environ["GOMP_SPINCOUNT"] == kept
    assert capsys.readouterr().out
