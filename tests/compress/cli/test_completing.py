"""Completion by the shell."""

from __future__ import annotations

import pytest
from click.shell_completion import ShellComplete

from compress.cli import main


@pytest.mark.parametrize(
    ("words", "incomplete", "offered"),
    [
        (["passes"], "prune-h", "prune-heads"),
        (["run"], "quick", "quickstart"),
        (["recipes"], "quick", "quickstart"),
        (["verify"], "dig", "digits"),
        (["run", "quickstart", "--model"], "dig", "digits"),
        (["generate", "digits", "--labels"], "", "7"),
        (["generate", "digits", "--labels"], "3,1", "3,1"),
        (["models", "inspect"], "emoji-m", "emoji-masked"),
    ],
)
def test_names_are_completed(words: list[str], incomplete: str, offered: str) -> None:
    found = ShellComplete(main, {}, "compress", "_COMPRESS_COMPLETE").get_completions(words, incomplete)
    assert offered in [each.value for each in found]


def test_files_are_offered_beside_names_of_models() -> None:
    found = ShellComplete(main, {}, "compress", "_COMPRESS_COMPLETE").get_completions(["verify"], "runs/")
    assert [(each.type, each.value) for each in found] == [("file", "runs/")]
