"""Printing never fails a job: standard streams that are closed, full, narrow, of any encoding, or left by readers."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from compress.cli import streams

# The verb `passes` with an outcome of its own: it prints a dash that ASCII does not have, and breaches a gate if asked.
PROGRAM = """
import sys
import click
from types import SimpleNamespace
from compress.cli import main
from compress.cli.group import leave
from compress.cli.terminal import Terminal, print_rows
def passes(name):
    Terminal().say("begun – it goes on")
    print_rows("passes", ["what"], [["a – b → c \\ud800"]] * 3)
    leave(passed=name != "breach")
sys.modules['compress.cli.catalogue'] = SimpleNamespace(passes=passes)  # the real one takes seconds to import
import compress.cli
compress.cli.catalogue = sys.modules['compress.cli.catalogue']
import compress.recipe.early
compress.recipe.early.check_pass = lambda name: None  # any name is one
main(prog_name="compress")
"""


def run(redirection: str, name: str = "fine", **environment: str) -> tuple[int, str, str]:
    """The exit code, standard output and standard error of the verb behind a shell's redirection."""
    command = f'"{sys.executable}" -c "$PROGRAM" passes {name} {redirection}'
    done = subprocess.run(
        ["bash", "-c", command], env={**os.environ, "PROGRAM": PROGRAM, **environment}, capture_output=True, check=False
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize("name", ["fine", "breach"])
@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&- <&-", "2>/dev/full", "| true; exit ${PIPESTATUS[0]}"])
def test_output_that_nobody_reads_does_not_change_the_exit_code(redirection: str, name: str) -> None:
    code, _, said = run(redirection, name)
    assert code == (name == "breach")
    assert said in ("", "   0:00  begun – it goes on\n")


def test_a_full_device_is_one_line_and_bad_but_a_breach_stays_a_breach() -> None:
    line = "   0:00  begun – it goes on\nerror: standard output: No space left on device; what was printed is lost\n"
    assert run(">/dev/full") == (2, "", line)
    assert run(">/dev/full", "breach")[0] == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_characters_that_an_encoding_does_not_have_are_written_in_another_way(encoding: str) -> None:
    code, printed, said = run("", PYTHONIOENCODING=encoding)
    assert code == 0
    text = "a – b → c \\ud800" if encoding == "utf-8" else "a - b -> c \\ud800"
    assert printed.count(text) == 3
    assert said == ("   0:00  begun – it goes on\n" if encoding == "utf-8" else "   0:00  begun - it goes on\n")


@pytest.mark.parametrize("environment", [{"COLUMNS": "0"}, {"COLUMNS": "1"}, {"TERM": "dumb", "COLUMNS": "wide"}])
def test_a_terminal_of_no_width_is_printed_to(environment: dict[str, str]) -> None:
    program = f"import os, pty; os.environ.update({environment!r}); os._exit(os.waitstatus_to_exitcode(pty.spawn(" \
              f"[{sys.executable!r}, '-c', os.environ['PROGRAM'], 'passes']))) "  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PROGRAM": PROGRAM}, stdin=subprocess.DEVNULL,
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0
    assert "a – b → c".encode() in done.stdout


def test_the_number_of_a_closed_stream_is_not_given_to_the_next_file(tmp_path: Path) -> None:
    program = (
        "import os, sys; from compress.cli import streams\n"
        "with streams.tolerant():\n"
        f"    file = open({str(tmp_path / 'file')!r}, 'wb')\n"
        "    os.write(1, b'lost'), os.write(2, b'lost'), print('lost'), print('lost', file=sys.stderr)\n"
        "    sys.exit(file.fileno())"
    )
    done = subprocess.run(["bash", "-c", f'"{sys.executable}" -c "$PROGRAM" <&- >&- 2>&-'],
                          env={**os.environ, "PROGRAM": program}, check=False)  # fmt: skip
    assert done.returncode >= 3
    assert (tmp_path / "file").read_bytes() == b""


def test_an_outlet_waits_for_a_reader_that_is_slow() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    data, read = bytes(range(256)) * 1000, []

    def reader() -> None:
        while piece := os.read(reading, 1000):
            read.append(piece)

    thread = threading.Thread(target=reader)
    outlet, view = streams.Outlet(writing), memoryview(data)
    thread.start()
    while view:
        view = view[outlet.write(view) :]
    os.close(writing)
    thread.join()
    os.close(reading)
    assert b"".join(read) == data
    assert outlet.error is None


def test_an_outlet_keeps_its_first_error_and_drops_the_rest() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    outlet = streams.Outlet(writing)
    assert outlet.write(b"four") == 4
    assert outlet.error is not None
    assert outlet.error.errno == errno.EPIPE
    os.close(writing)
    assert outlet.write(b"four") == 4
