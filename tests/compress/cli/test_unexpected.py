"""An error that nobody foresaw is one line and exit code 70, with its details in a private file."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from compress.cli import unexpected

LINE = re.compile(r"^error: (?P<said>.*) Details: (?P<file>\S+\.log); --debug shows them here\n$")


class Panic(BaseException):
    """What a library written in Rust raises: no Exception."""


@pytest.fixture
def ended(
    invoke: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[str, str]]:
    """Run a verb whose work raises an error, held to exit code 70; what was said, and the file of details."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def run(error: BaseException | Callable[[], None], *arguments: object) -> tuple[str, str]:
        def fails(*given: object, **settings: object) -> None:
            if isinstance(error, BaseException):
                raise error
            error()

        monkeypatch.setattr("compress.cli.catalogue.passes", fails)
        result = invoke(*(arguments or ("passes", "--json")))
        assert result.exit_code == 70, result.output
        assert result.stdout == ""
        found = LINE.match(result.stderr)
        assert found, result.stderr
        path = Path(found["file"])
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        return found["said"], path.read_text()

    return run


def endless(depth: int = 0) -> int:
    return endless(depth + 1) + 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("recipe"), "unexpected KeyError: 'recipe'; this is a fault of compress, not a breached gate."),
        (AssertionError(), "unexpected AssertionError; this is a fault of compress, not a breached gate."),
        (EOFError("No data left"), "unexpected EOFError: No data left; this is a fault of compress, not a breached"),
        (ImportError("libgomp.so.1"), "unexpected ImportError: libgomp.so.1; this is a fault of compress"),
        (SystemExit(1), "unexpected SystemExit: 1; this is a fault of compress"),
        (Panic("index out of bounds"), "unexpected Panic: index out of bounds; this is a fault of compress"),
        (RuntimeError("two\n  lines"), "unexpected RuntimeError: two lines; this is a fault of compress"),
        (BrokenPipeError(32, "Broken pipe"), "unexpected BrokenPipeError: [Errno 32] Broken pipe; this is"),
        (endless, "unexpected RecursionError: maximum recursion depth exceeded"),
        (MemoryError(), "out of memory (MemoryError); use a smaller batch, or a machine with more memory."),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
            "out of memory (RuntimeError: [enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate mem",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_unforeseen_error_is_one_line_and_its_details_are_in_a_private_file(
    ended: Callable[..., tuple[str, str]], error: BaseException, said: str
) -> None:
    line, written = ended(error)
    assert line.startswith(f"passes: {said}")
    assert written.startswith("command:  compress passes --json\nat:       passes\nfolder:   ")
    assert "\nversions: image-token-compress " in written
    assert "Traceback (most recent call last):" in written


def test_a_long_message_is_shortened_on_the_line_and_whole_in_the_file(ended: Callable[..., tuple[str, str]]) -> None:
    line, written = ended(ValueError("x" * 500))
    assert f"ValueError: {'x' * 99}...{'x' * 98};" in line
    assert "x" * 500 in written


def test_the_verb_is_named_as_it_was_typed(ended: Callable[..., tuple[str, str]], monkeypatch) -> None:
    monkeypatch.setattr("compress.core.store.Store.rows", lambda self: {}["artifacts"])
    line, written = ended(KeyError(), "store", "list", "--store", "a b")
    assert line.startswith("store list: unexpected KeyError: 'artifacts'")
    assert written.startswith("command:  compress store list --store 'a b'\n")


@pytest.mark.parametrize("arguments", [("--debug", "passes"), ("passes", "--debug"), ("passes", "fuse", "--debug")])
def test_debug_shows_the_traceback_instead(
    invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setattr("compress.cli.catalogue.passes", lambda name: {}["missing"])
    result = invoke(*arguments)
    assert result.exit_code == 70
    assert result.stderr.startswith("Traceback (most recent call last):")
    assert result.stderr.endswith("KeyError: 'missing'\n")


def test_details_that_cannot_be_written_are_said(
    invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("compress.cli.catalogue.passes", lambda name: {}["missing"])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    result = invoke("passes")
    assert result.exit_code == 70
    assert result.stderr.endswith(
        "The details could not be written (No such file or directory); --debug shows them here\n"
    )


def test_a_file_of_details_that_was_begun_in_vain_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*arguments: object) -> str:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(unexpected, "record", full)
    said = unexpected.details(ValueError(), "passes", [])
    assert said == "The details could not be written (No space left on device); --debug shows them here"
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_details_has_a_bounded_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unexpected, "MOST_WRITTEN", 1000)
    written = unexpected.record(ValueError("x" * 5000), "run", [])
    assert "\n... left out ...\n" in written
    assert len(written) < 2000


def test_an_error_that_ends_a_thread_is_not_lost(
    invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def in_a_thread(name: str | None) -> list[str]:
        thread = threading.Thread(target=lambda: {}["x"])
        thread.start()
        thread.join()
        return []

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("compress.cli.catalogue.passes", in_a_thread)
    result = invoke("passes", "--json")
    assert result.exit_code == 70
    assert result.stdout == "[]\n"
    assert result.stderr.startswith("error: passes: unexpected KeyError: 'x'")


@pytest.mark.parametrize("arguments", [("run", "{small}", "--skip-preflight"), ("run", "{small}")])
def test_a_run_names_the_step_in_progress(
    arguments: tuple[str, ...], shared_run, invoke: Callable[..., Result], monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("compress.passes.prune_heads.PruneHeads.run", lambda *given: {}["heads"])
    words = [word.format(small=shared_run.recipe) for word in arguments]
    result = invoke(*words, "--store", tmp_path / "store", "-o", tmp_path / "run")
    assert result.exit_code == 70, result.output
    place = "prune-heads" if "--skip-preflight" in arguments else "preflight of prune-heads"
    said = rf"error: run: (step 1 of \d: )?{place}: unexpected KeyError: 'heads'"
    assert re.match(said, result.stderr.splitlines()[-1])


def test_a_package_that_cannot_be_imported_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise ImportError('no module named colours')")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "compress", "passes"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 70
    assert done.stderr == ("error: compress cannot start: ImportError: no module named colours; install it again\n")


def test_a_shell_whose_completion_is_unknown_is_bad_usage() -> None:
    words = os.environ | {"_COMPRESS_COMPLETE": "tcsh_source"}
    program = "from compress.cli import main; main(prog_name='compress')"
    done = subprocess.run([sys.executable, "-c", program], env=words, capture_output=True, check=False)
    assert done.returncode == 2
