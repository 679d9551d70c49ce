"""The machine's leases: one times at once, work is shared, and a busy neighbour changes no order of engines."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from compress.core import lease
from compress.measure.speed.timing import paired

ROOT = Path(__file__).parents[3]
# A neighbour that works again and again; while it does, `busy` is there.
NEIGHBOUR = """
import sys, time
from pathlib import Path
from compress.core import lease
lease.SYSTEM, busy = Path(sys.argv[1]), Path(sys.argv[1]) / "busy"
print("begun", flush=True)
while True:
    with lease.working():
        busy.touch()
        time.sleep(0.02)
        busy.unlink()
    time.sleep(0.002)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of the test's own."""
    monkeypatch.setattr(lease, "SYSTEM", tmp_path)
    return tmp_path


@pytest.fixture
def neighbour(folder: Path) -> Iterator[Path]:
    """Another process that works on that machine all the time; the file that is there while it does."""
    process = subprocess.Popen([sys.executable, "-c", NEIGHBOUR, str(folder)], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    yield folder / "busy"
    process.kill()
    process.wait()


def in_a_thread(context: Callable[[], object], entered: threading.Event, leave: threading.Event) -> threading.Thread:
    """A thread that enters a lease, says so, and stays until it may leave."""

    def run() -> None:
        with context():  # type: ignore[attr-defined]
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_two_work_at_once(folder: Path) -> None:
    with lease.working():
        entered, leave = threading.Event(), threading.Event()
        thread = in_a_thread(lease.working, entered, leave)
        assert entered.wait(5)
        leave.set()
    thread.join()


def test_one_job_times_at_once_and_work_goes_on_beside_it(folder: Path) -> None:
    said: list[str] = []
    timed, leave = threading.Event(), threading.Event()
    with lease.timing(), lease.working():
        other = in_a_thread(lambda: lease.timing(said.append), timed, leave)
        while not said:
            time.sleep(0.001)
        assert not timed.is_set()
    assert timed.wait(5)
    leave.set()
    other.join()
    assert said == ["timing: another job times on this machine; waiting for it"]


def test_who_wants_to_be_alone_waits_for_work_and_lets_no_new_work_begin(folder: Path) -> None:
    said: list[str] = []
    first, leave_first = threading.Event(), threading.Event()
    timed, leave_timed = threading.Event(), threading.Event()
    later, leave_later = threading.Event(), threading.Event()
    working = in_a_thread(lease.working, first, leave_first)
    assert first.wait(5)
    timing = in_a_thread(lambda: lease.alone(said.append), timed, leave_timed)
    while not said:
        time.sleep(0.001)
    late = in_a_thread(lease.working, later, leave_later)
    assert not timed.is_set()
    assert not later.wait(0.05), "what begins later would keep the one who times waiting for ever"
    leave_first.set()
    assert timed.wait(5)
    assert not later.is_set()
    leave_timed.set()
    assert later.wait(5)
    leave_later.set()
    for thread in (working, timing, late):
        thread.join()
    assert said == ["timing: another trial works on this machine; waiting for it"]


def test_a_process_that_is_killed_leaves_no_lease(folder: Path) -> None:
    program = NEIGHBOUR.replace("lease.working", "lease.alone").replace("time.sleep(0.02)", "time.sleep(60)")
    process = subprocess.Popen([sys.executable, "-c", program, str(folder)], cwd=ROOT, stdout=subprocess.PIPE)
    while not (folder / "busy").exists():
        time.sleep(0.005)
    process.kill()
    process.wait()
    with lease.alone(), lease.timing():
        pass


def fastest(busy: Path, alone: Callable[[], object]) -> str:
    """Which of two engines is called faster: one takes a third of the other's time, and suffers from a neighbour."""

    def suffering() -> None:
        time.sleep(0.012 if busy.exists() else 0.001)

    with alone():  # type: ignore[attr-defined]
        found = paired({"steady": lambda: time.sleep(0.004), "suffering": suffering}, 12)
    return "suffering" if found.speedup("suffering", "steady").value > 1 else "steady"


def test_a_busy_neighbour_does_not_change_which_of_two_engines_is_called_faster(neighbour: Path) -> None:
    assert fastest(neighbour, lease.alone) == "suffering"
    assert fastest(neighbour, nullcontext) == "steady", "without the lease the neighbour decides"


@pytest.mark.slow
def test_runs_time_their_engines_while_nobody_else_times(finished, invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    from compress.running import measurements

    held: list[bool] = []
    inside = False

    @contextmanager
    def alone(say: Callable[[str], None]) -> Iterator[None]:
        nonlocal inside
        inside = True
        yield
        inside = False

    real = measurements.paired
    monkeypatch.setattr(measurements, "timing", alone)
    monkeypatch.setattr(measurements, "paired", lambda *args, **kw: (held.append(inside), real(*args, **kw))[1])
    finished.changed(("repeats: 6", "repeats: 7"))
    result = invoke("run", finished.recipe, "--store", finished.store, "-o", finished.output, "--skip-preflight")
    assert result.exit_code == 0, result.output
    assert held
    assert all(held)
