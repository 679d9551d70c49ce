"""The verbs as a whole: help, suggestions, quickness."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import Result

from compress.cli import main
from compress.cli.group import Group, whole_numbers
from compress.core.settings import InputError

VERBS = [
    "init",
    "run",
    "plan",
    "sensitivity",
    "search",
    "train",
    "tokens",
    "generate",
    "vary",
    "outpaint",
    "upscale",
    "serve",
    "verify",
    "bisect",
    "bench",
    "profile",
    "to-optimum",
    "export-triton",
    "export-web",
    "check-tensorrt",
    "report",
    "recipes",
    "schema",
    "passes",
    "models",
    "store",
    "doctor",
]
HELP_SECONDS = 0.3


def leaves(group: Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every verb that does something."""
    for name, command in group.commands.items():
        if isinstance(command, Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name)


def test_the_help_lists_the_verbs_in_the_order_of_a_day(invoke: Callable[..., Result]) -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    listed = result.stdout.split("Commands:\n")[1].split("\n\n")[0]
    assert [line.split()[0] for line in listed.splitlines()] == VERBS
    assert "70   an unexpected error" in result.stdout
    assert "_COMPRESS_COMPLETE=bash_source" in result.stdout


@pytest.mark.parametrize("words", list(leaves(main)), ids=" ".join)
def test_every_verb_shows_an_example_of_itself(words: tuple[str, ...], invoke: Callable[..., Result]) -> None:
    result = invoke(*words, "--help")
    assert result.exit_code == 0
    assert f"Example:\n    compress {' '.join(words)}" in result.stdout
    command: click.Command = main
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    assert all(option.help for option in command.params if isinstance(option, click.Option)), "an option without help"


def test_the_help_is_quick() -> None:
    """By the time of the processor, which other work on the machine does not lengthen."""
    times = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-m", "compress", "--help"], capture_output=True, check=True)
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert 0 < min(times) < HELP_SECONDS


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["rum"], "Error: no verb is called 'rum'; did you mean 'run'?"),
        (["store", "lst"], "Error: no verb is called 'lst'; did you mean 'list'?"),
        (["run"], "Error: Missing argument 'RECIPE'."),
        (["store", "list", "--jsn"], "Error: No such option '--jsn'. Did you mean '--json'?"),
    ],
)
def test_a_mistyped_command_is_answered_with_what_would_be_right(
    words: list[str], line: str, invoke: Callable[..., Result]
) -> None:
    result = invoke(*words)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == line


def test_shell_completion_knows_the_verbs() -> None:
    words = {"_COMPRESS_COMPLETE": "bash_complete", "COMP_WORDS": "compress ru", "COMP_CWORD": "1"}
    program = "from compress.cli import main; main(prog_name='compress')"
    output = subprocess.run([sys.executable, "-c", program], env=words, capture_output=True, text=True, check=False)
    assert output.stdout.strip() == "plain,run"


def test_lists_of_numbers_are_checked() -> None:
    assert whole_numbers("3,1, 4", "--labels", "3,1,4") == [3, 1, 4]
    with pytest.raises(InputError, match=r"^--labels: '3;1' is not a list of whole numbers like 3,1,4"):
        whole_numbers("3;1", "--labels", "3,1,4")
    with pytest.raises(InputError, match=r"^--batch: 0 is out of range; it must be at least 1"):
        whole_numbers("1,0", "--batch", "1,8", low=1)


def test_an_error_of_the_system_is_one_line(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    def fails(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("compress.recipe.recipe.load", fails)
    (tmp_path / "r.yaml").write_text("{}")
    assert refused("run", tmp_path / "r.yaml") == "Input/output error"


def test_an_output_that_cannot_be_written_is_found_before_the_work(
    invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    def refused(path: object, said: str) -> None:
        result = invoke("verify", "a", "b", "--junit", path)
        assert result.exit_code == 2
        assert result.stderr.splitlines()[-1] == f"Error: Invalid value for '--junit': {said}"

    monkeypatch.setattr("compress.verifying.comparison.compare", lambda *given: pytest.fail("measured"))
    refused(tmp_path, f"'{tmp_path}' is a folder; name a file.")
    refused(tmp_path / "no" / "x.xml", f"'{tmp_path}/no/x.xml': there is no folder '{tmp_path}/no'.")
    line = invoke("verify", "a", "b", "--junit", tmp_path / ("x" * 300)).stderr.splitlines()[-1]
    assert line.startswith(f"Error: Invalid value for '--junit': '{tmp_path}/xxx")
    assert line.endswith("xxx' cannot be written (File name too long).")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    refused(tmp_path / "x.xml", f"'{tmp_path}/x.xml' cannot be written (Permission denied).")


def test_what_click_says_is_one_short_line_whatever_was_typed(invoke: Callable[..., Result]) -> None:
    for words, text in (
        (("verify", "a", "b", "c\nd"), "Error: Got unexpected extra argument (c d)"),
        (("generate", "x", "--count", "9" * 3000 + "x"), "is not a valid integer range."),
        (("plan", f"--{'n' * 3000}"), "Error: No such option"),
        (("v" * 3000,), "Error: no verb is called"),
    ):
        result = invoke(*words)
        assert result.exit_code == 2
        line = result.stderr.splitlines()[-1]
        assert text in line
        assert len(line) < 500


@pytest.mark.parametrize("threads", ["0", "1025", "9223372036854775808"])
def test_threads_are_as_many_as_a_machine_may_have(threads: str, invoke: Callable[..., Result]) -> None:
    result = invoke("bench", "digits", "--threads", threads)
    assert result.exit_code == 2
    assert f"Error: Invalid value for '--threads': {threads} is not in the range 1<=x<=1024." in result.stderr


def test_an_error_is_one_line_of_bounded_length_whatever_it_names(invoke: Callable[..., Result]) -> None:
    result = invoke("generate", "nothing/" * 600, "--labels", "1", "-o", "o.png")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert 900 < len(line) < 1000


def test_a_count_beside_labels_is_named(invoke: Callable[..., Result]) -> None:
    result = invoke("generate", "digits", "--labels", "1", "--count", "2", "-o", "o.png")
    assert result.exit_code == 2
    assert result.stderr == "error: --count: this model draws classes; give a label for each picture and leave it out\n"


def test_a_picture_that_does_not_fit_on_the_disk_is_named(invoke: Callable[..., Result]) -> None:
    result = invoke("generate", "digits", "--labels", "1", "-o", "/dev/full")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("error: /dev/full: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "{recipe}", "-o", "{path}"),
        ("plan", "{recipe}", "--store", "{path}"),
        ("store", "list", "--store", "{path}"),
        ("store", "gc", "--max-size", "0", "--store", "{path}"),
        ("train", "{recipe}", "-o", "{path}"),
        ("to-optimum", "engine", "-o", "{path}"),
        ("export-triton", "engine", "-o", "{path}"),
        ("export-web", "engine", "-o", "{path}"),
        ("report", "{path}"),
        ("generate", "engine", "--labels", "1", "-o", "{path}"),
    ],
    ids=lambda words: words[0] + "".join(word for word in words if word in ("list", "gc")),
)
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("~nosuch/x", "no user has this home folder"),
        ("", "it is empty; name a file or folder"),
    ],
)
def test_a_path_that_is_none_is_refused_by_every_verb(
    arguments: tuple[str, ...], path: str, message: str, invoke: Callable[..., Result], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(*(word.format(recipe=tmp_path / "r.yaml", path=path) for word in arguments))
    assert result.exit_code == 2
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_option_is_not_taken_for_the_path_that_is_missing_before_it(
    invoke: Callable[..., Result], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("generate", "engine", "--labels", "1", "-o", "--seed=3")
    assert result.exit_code == 2
    assert "'--seed=3' looks like an option; write ./ before the name of such a file." in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_home_folder_is_written_out_where_the_shell_does_not(
    invoke: Callable[..., Result], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert f"{tmp_path}/none:0artifacts" in "".join(invoke("store", "list", "--store=~/none").stdout.split())
