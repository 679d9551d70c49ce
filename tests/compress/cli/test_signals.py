"""A signal that asks a job to stop is treated as Ctrl-C: one line, an exit code of its own, and no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from compress.cli.signals import Stop

# The verb `passes`, to which signals are sent from inside; `interrupted` is told what a job would write then.
PROGRAM = """
import os, signal, sys, time
from types import SimpleNamespace
from compress.cli import main, signals
signals.SAME_S = 0.05
for name in sys.argv.pop(1).split(","):
    signal.signal(getattr(signal, name), signal.SIG_IGN) if name else None
signal.signal(signal.SIGINT, signal.default_int_handler)
sent = [getattr(signal, name) for name in sys.argv.pop(1).split(",")]
def passes(name):
    try:
        os.kill(os.getpid(), sent.pop(0))
        time.sleep(0.5)
    except KeyboardInterrupt:
        print("checkpoint", file=sys.stderr)
        for again in sent:
            os.kill(os.getpid(), again)
            time.sleep(0.1)
        if name == "other":
            raise ImportError("an interrupted import") from None
        raise
    return []
sys.modules['compress.cli.catalogue'] = SimpleNamespace(passes=passes)  # the real one takes seconds to import
import compress.cli
compress.cli.catalogue = sys.modules['compress.cli.catalogue']
import compress.recipe.early
compress.recipe.early.check_pass = lambda name: None  # any name is one
main(prog_name="compress")
"""
KEPT = "what was finished is kept, and the next run goes on from there"


def run(sent: str, ignored: str = "", name: str = "fuse") -> tuple[int, list[str]]:
    """The exit code and the lines on standard error."""
    command = [sys.executable, "-c", PROGRAM, ignored, sent, "passes", name, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, [line for line in done.stderr.splitlines() if line]


@pytest.mark.parametrize(
    ("sent", "code", "said"),
    [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "stopped by SIGTERM"), ("SIGHUP", 129, "stopped by SIGHUP")],
)
def test_a_signal_interrupts_the_job_which_writes_its_checkpoint_first(sent: str, code: int, said: str) -> None:
    assert run(sent) == (code, ["checkpoint", f"{said}; {KEPT}"])


def test_an_error_that_a_library_makes_of_an_interruption_is_an_interruption() -> None:
    assert run("SIGTERM", name="other") == (143, ["checkpoint", f"stopped by SIGTERM; {KEPT}"])


def test_a_second_one_stops_at_once_but_an_echo_of_the_first_or_a_hang_up_does_not() -> None:
    assert run("SIGINT,SIGINT") == (130, ["checkpoint", f"interrupted; {KEPT}"])
    stopped = "stopped at once; what was finished before is kept"
    assert run("SIGINT,SIGHUP,SIGTERM") == (143, ["checkpoint", stopped])


def test_a_signal_that_whoever_started_the_job_ignores_stays_ignored() -> None:
    assert run("SIGHUP", ignored="SIGHUP") == (0, [])


def test_a_signal_behind_the_end_changes_nothing() -> None:
    stop = Stop()
    stop.over()
    stop(signal.SIGTERM, None)
    assert stop.number == 0


def test_an_interruption_while_the_command_line_is_imported_is_one_line(tmp_path) -> None:
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "compress", "passes"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
