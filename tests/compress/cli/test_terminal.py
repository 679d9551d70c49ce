"""Messages and progress where no bar can be drawn."""

from __future__ import annotations

import pytest

from compress.cli import terminal


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with terminal.Terminal().work("distill") as progress:
        for done, now[0] in enumerate((3.0, 11.0, 15.0, 70.0), start=1):
            progress(done, 4, {"loss": 0.25})
    captured = capsys.readouterr()
    assert captured.err == "   0:11    distill: 2 of 4  loss 0.25\n   1:10    distill: 4 of 4  loss 0.25\n"
    assert captured.out == ""


def test_a_long_message_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.Terminal().say("[bold] " + "word " * 100)
    assert capsys.readouterr().err == "   0:00  [bold] " + "word " * 100 + "\n"


def test_a_pipe_has_140_columns_and_columns_and_no_color_are_obeyed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert terminal.console().width == 140
    for stated, width in (("40", 40), ("80", 80), ("3", 40), ("0", 140), ("wide", 140)):
        monkeypatch.setenv("COLUMNS", stated)
        assert terminal.console().width == width
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.console().no_color


def test_a_line_is_whole_in_a_pipe_and_wrapped_between_words_where_the_width_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "every gate of this recipe holds, and the engine lies in /a/folder/whose/name/is/rather/long/cpu"
    monkeypatch.delenv("COLUMNS", raising=False)
    terminal.print_line(text)
    assert capsys.readouterr().out == f"{text}\n"
    monkeypatch.setenv("COLUMNS", "40")
    terminal.print_line(text)
    assert capsys.readouterr().out.splitlines() == [
        "every gate of this recipe holds, and the",
        "engine lies in",
        "/a/folder/whose/name/is/rather/long/cpu",
    ]
