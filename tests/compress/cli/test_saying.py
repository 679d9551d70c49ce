"""How much a verb says: -q, -v and --log-file."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from compress.cli import saying, terminal
from compress.cli.group import leave
from compress.core.settings import InputError


@click.command()
@saying.saying_options
@click.option("--end", default="well")
def working(end: str) -> None:
    """A verb that works."""
    shown = terminal.Terminal()
    shown.say("step 1 of 2: prune: made 0123")
    with shown.work("distill") as progress:
        progress(1, 2, {"loss": 0.5})
    if end == "error":
        raise InputError("the picture is too large")
    if end == "breach":
        leave(passed=False)
    click.echo("result")


def run(*words: str) -> Result:
    return CliRunner().invoke(working, list(words))


def test_a_message_carries_the_time_since_the_verb_began() -> None:
    done = run()
    assert done.stderr == "   0:00  step 1 of 2: prune: made 0123\n"
    assert done.stdout == "result\n"


def test_quiet_leaves_the_result_alone() -> None:
    done = run("-q")
    assert (done.stderr, done.stdout) == ("", "result\n")


def test_verbose_says_the_time_and_the_memory_of_each_part() -> None:
    assert re.search(r"0:00  distill: took 0:00, \d+ MiB at most\n", run("-v").stderr)


def test_quiet_and_verbose_contradict_each_other() -> None:
    assert str(run("-q", "-v").exception) == "-q and -v: give one of both"


@pytest.mark.parametrize(
    ("end", "last"),
    [
        ("well", "ended"),
        ("breach", "not passed: exit code 1"),
        ("error", "ended by InputError: the picture is too large"),
    ],
)
def test_a_log_file_is_added_to_also_when_quiet_and_says_how_the_verb_ended(
    tmp_path: Path, end: str, last: str
) -> None:
    log = tmp_path / "log.txt"
    log.write_text("before\n")
    assert run("-q", "--log-file", str(log), "--end", end).stderr == ""
    lines = log.read_text().splitlines()
    assert lines[0] == "before"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4} 0:00 begun: working", lines[1])
    assert lines[2].endswith(" 0:00 step 1 of 2: prune: made 0123")
    assert any(line.endswith(f" 0:00 {last}") for line in lines[-2:])


def test_a_log_file_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    done = run("--log-file", str(tmp_path))
    assert done.exit_code == 2
    assert "is a folder; name a file" in done.stderr


def test_a_time_is_said_in_hours_minutes_and_seconds() -> None:
    assert [saying.clock(each) for each in (0.9, 62, 3723)] == ["0:00", "1:02", "1:02:03"]


def test_warnings_of_a_library_go_into_the_log_file_while_the_verb_works(tmp_path: Path) -> None:
    log = logging.getLogger("a library")
    with (tmp_path / "log.txt").open("w") as file:
        with saying.noting_log("a library", saying.Saying(log=file)):
            log.error("the engine is gone")
        log.error("later")
    assert re.fullmatch(r"\S+ \S+ 0:00 error: the engine is gone\n", (tmp_path / "log.txt").read_text())
