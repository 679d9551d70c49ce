"""Whether torchrun started this process, and what it says then."""

from __future__ import annotations

import pytest

from compress.core import launched
from compress.core.launched import Launch, SaidElsewhereError, first, launch, refuse_torchrun, speaks
from compress.core.settings import InputError

SECOND = {
    "TORCHELASTIC_RUN_ID": "x",
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "TORCHELASTIC_RESTART_COUNT": "3",
}


def test_torchrun_says_which_process_this_is() -> None:
    assert launch({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}) is None, "others set these too"
    assert launch(SECOND) == Launch(rank=5, size=8, local_rank=1, restarts=3)


def test_without_torchrun_a_process_is_the_first_one_and_speaks() -> None:
    assert first()
    assert speaks()
    refuse_torchrun("that")


def test_of_torchrun_s_processes_one_of_a_machine_says_that_a_command_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECOND.items():
        monkeypatch.setenv(name, value)
    assert not first()
    assert not speaks()
    with pytest.raises(SaidElsewhereError):
        refuse_torchrun("that")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert speaks()
    with pytest.raises(InputError, match=r"^torchrun has started 8 processes, and this command is one; use that$"):
        refuse_torchrun("that")


def test_what_another_process_says_ends_the_command_without_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from compress.cli import main

    monkeypatch.setattr(launched, "SAID_S", 0.0)
    for name, value in SECOND.items():
        monkeypatch.setenv(name, value)
    for words in (["run", "quickstart"], ["run", "--no-such-option"]):
        result = CliRunner().invoke(main, words)
        assert (result.exit_code, result.output) == (2, ""), words
