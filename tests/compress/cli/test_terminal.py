"""Messages and progress where no bar can be drawn."""

from __future__ import annotations

import pytest

from compress.cli import terminal


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([0.0, 3.0, 11.0, 11.0, 15.0, 30.0, 30.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(now))
    with terminal.Terminal().work("distill") as progress:
        for done in range(1, 5):
            progress(done, 4, {"loss": 0.25})
    captured = capsys.readouterr()
    assert captured.err == "  distill: 2 of 4  loss 0.25\n  distill: 4 of 4  loss 0.25\n"
    assert captured.out == ""


def test_a_long_message_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.Terminal().say("[bold] " + "word " * 100)
    assert capsys.readouterr().err == "[bold] " + "word " * 100 + "\n"
