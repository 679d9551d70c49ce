"""Workers that are processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jobs_of_workers import Squares, Talkative, Told

from compress.core.settings import InputError
from compress.workers.crew import Task
from compress.workers.local import LocalCrew
from compress.workers.pool import mapped


def squares(job: Squares, size: int, count: int) -> dict[str, object]:
    outcomes = mapped(LocalCrew(size, job), [Task(f"{number}", number) for number in range(count)])
    return {each.task.name: each.fault or each.value for each in outcomes}


def calls(folder: Path) -> list[int]:
    """Which numbers were begun, in order of the number."""
    return sorted(int(path.name.partition("-")[0]) for path in folder.iterdir())


def test_processes_do_tasks_and_are_gone_afterwards(tmp_path: Path) -> None:
    assert squares(Squares(tmp_path), 2, 5) == {f"{number}": number**2 for number in range(5)}
    assert calls(tmp_path) == [0, 1, 2, 3, 4]
    assert multiprocessing.active_children() == []


def test_a_process_that_is_killed_is_replaced_and_one_that_kills_twice_is_named(tmp_path: Path) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    for folder in (once, twice):
        folder.mkdir()
    assert squares(Squares(once, fatal=(1,), accidents=1), 1, 3) == {"0": 0, "1": 1, "2": 4}
    assert calls(once) == [0, 1, 1, 2]
    found = squares(Squares(twice, fatal=(1,), wrong=(0,)), 1, 3)
    assert found.pop("1").endswith("was killed by SIGKILL")
    assert found == {"0": "ValueError: 0 is wrong", "2": 4}
    assert calls(twice) == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    ("start", "said"),
    [("error", "ValueError: no engine"), ("death", "was killed by SIGKILL before it was ready; so did 2 before it")],
)
def test_what_cannot_start_is_said_in_one_line(tmp_path: Path, start: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        squares(Squares(tmp_path, start=start), 1, 3)
    assert str(error.value).endswith(said)
    assert multiprocessing.active_children() == []


def test_what_workers_say_on_the_way_is_heard_before_their_replies() -> None:
    heard: list[int] = []
    for outcome in mapped(LocalCrew(2, Told(), heard.append), [Task(f"{number}", number) for number in range(4)]):
        assert heard.count(outcome.value) == 2
    assert sorted(heard) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_worker_whose_lines_nobody_reads_goes_on(tmp_path: Path) -> None:
    crew, done = LocalCrew(1, Talkative()), tmp_path / "done"
    worker = crew.start()
    try:
        while not crew.ready([worker]):
            pass
        worker.reply()
        worker.send(done)
        ends = time.monotonic() + 20
        while not done.exists() and time.monotonic() < ends:
            time.sleep(0.02)
        assert done.exists()
    finally:
        worker.stop()


PROGRAM = """
import sys
from pathlib import Path
from jobs_of_workers import Squares
from compress.workers.crew import Task
from compress.workers.local import LocalCrew
from compress.workers.pool import mapped
if __name__ == "__main__":
    job = Squares(Path(sys.argv[1]), seconds=120)
    try:
        list(mapped(LocalCrew(2, job), [Task(f"{number}", number) for number in range(4)]))
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_whoever_started_them_and_say_nothing(tmp_path: Path, sent: int) -> None:
    """As from a terminal, Ctrl-C goes to all of them."""
    program, folder = tmp_path / "program.py", tmp_path / "calls"
    program.write_text(PROGRAM)
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(program), str(folder)]
    driver = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )
    while len(list(folder.iterdir())) < 2:
        assert driver.poll() is None
        time.sleep(0.05)
    workers = [int(path.name.rpartition("-")[2]) for path in folder.iterdir()]
    time.sleep(0.5)  # until both were handed their tasks, and their parent waits
    if sent == signal.SIGINT:
        os.killpg(driver.pid, sent)
    else:
        driver.kill()
    output, _ = driver.communicate(timeout=60)
    assert output == ("interrupted\n" if sent == signal.SIGINT else "")
    until = time.monotonic() + 10
    while any(Path(f"/proc/{each}").exists() for each in workers):
        assert time.monotonic() < until
        time.sleep(0.05)
