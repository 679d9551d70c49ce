"""The command `search`: its errors before anything heavy, its exit codes, and a kill at any point."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from jobs_of_workers import children

from compress.recipe import recipe as recipes

ROOT = Path(__file__).parents[4]
SPACE = """\
model:  {{checkpoint: {checkpoint}}}
tokens: {{source: digits, calibration: 8, held_out: 12}}
bench:  {{batch: [1], threads: 1, repeats: 6, samples: 10}}
passes:
  - prune-ffn: {{ratio: {{choose: [0.25, 0.5]}}, score: magnitude, repair: false}}
  - prune-heads: {{ratio: 0.25, score: magnitude, repair: false}}
    optional: true
engines:
  cpu: [export: {{target: onnxruntime}}]
"""


@pytest.fixture
def space(checkpoint: Path, tmp_path: Path) -> Path:
    """A space of four combinations."""
    path = tmp_path / "tiny.yaml"
    path.write_text(SPACE.format(checkpoint=checkpoint))
    return path


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "--minimize latency: nothing holds it back; give a limit such as --budget nll_drift=1%, or a second"),
        (("--budget", "kl"), "--budget 'kl': is no limit; write QUANTITY=LIMIT, for example nll_drift=1%"),
        (("--budget", "kl=1", "--budget", "kl=2"), "--budget kl: has two limits, 1 and 2; give one"),
        (
            ("--budget", "speedup=2"),
            "--budget speedup: latency is made as small as it can be, which a limit on speedup",
        ),
        (("--budget", "kl=1MB"), "--budget kl=1MB: only size is limited in bytes"),
        (("--budget", "nll_drif=1%"), "--budget: unknown key 'nll_drif'; did you mean 'nll_drift'?"),
        (("--budget", "kl=1", "--minimize", "siz"), "--minimize: no quantity is called 'siz'; did you mean 'size'?"),
    ],
)
def test_wrong_goals_are_one_line(
    space: Path, refused: Callable[..., str], options: tuple[str, ...], said: str
) -> None:
    assert refused("search", space, *options).startswith(said)


def test_a_place_that_is_none_and_a_cluster_that_does_not_answer_are_one_line(
    space: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    goal = ("--budget", "kl=1", "--store", tmp_path / "store", "-o", tmp_path / "out")
    said = "--on: 'torchrun:2' is no place to work; write local:N (1 to 1024 processes), ray, or ray://HOST:PORT"
    assert refused("search", space, *goal, "--on", "torchrun:2") == said
    pytest.importorskip("ray")
    began = time.monotonic()
    said = refused("search", space, *goal, "--on", "ray://127.0.0.1:9")
    assert said.startswith("--on ray://127.0.0.1:9: no cluster answers within 5 s; start one with  ray start --head")
    assert time.monotonic() - began < 10
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "5", "0m", "5 minutes", "-1m", "m"])
def test_a_time_that_is_none_is_refused(space: Path, invoke: Callable[..., Result], text: str) -> None:
    result = invoke("search", space, "--budget", "kl=1", "--time", text)
    assert result.exit_code == 2
    assert f"'{text}' is no time above 0; write it as 90s, 30m or 1h30m." in result.stderr


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1.5h", 5400), ("1d", 86400)]
)
def test_times_are_read(text: str, seconds: float) -> None:
    from compress.cli.verbs.search import Duration

    assert Duration().convert(text, None, None) == seconds


def test_a_space_that_is_none_and_a_gate_that_is_none_are_one_line(
    space: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    text = space.read_text()
    space.write_text(text + "gate: 3\n")
    assert refused("search", space, "--budget", "kl=1") == f"{space}: gate: 3 is not a mapping of limits"
    space.write_text(text.replace("{choose: [0.25, 0.5]}", "0.5").replace("    optional: true\n", ""))
    assert f"{space}: nothing is searched for: no setting has a choice" in refused("search", space, "--budget", "kl=1")
    said = refused("search", "digit", "--budget", "kl=1")
    assert said.endswith("no shipped space of this name; did you mean 'digits'?")


def test_without_optuna_one_line_says_how_to_install_it(
    space: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    said = refused("search", space, "--budget", "kl=1")
    assert said.startswith("search needs Optuna (")
    assert said.endswith("; pip install 'optuna>=5'")


def test_the_help_and_light_errors_load_nothing_heavy(space: Path) -> None:
    program = (
        "import sys\nfrom compress.cli import main\n"
        "main(sys.argv[1:], standalone_mode=False) if '--help' in sys.argv else None\n"
        "from compress.searching import limits, space, study\n"
        f"space.load(__import__('pathlib').Path({str(space)!r}))\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "search", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert not set(done.stdout.splitlines()[-1].split()) & {"torch", "numpy", "onnx", "onnxruntime", "optuna", "rich"}


def command(space: Path, folder: Path, *options: str) -> list[str]:
    """A search in a process of its own."""
    return [
        *(
            sys.executable,
            "-m",
            "compress",
            "search",
            str(space),
            "--budget",
            "kl=50",
            "--store",
            str(folder / "store"),
        ),
        *("-o", str(folder / "out"), *options),
    ]


@pytest.mark.slow
def test_a_killed_search_goes_on_and_can_be_extended(space: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(command(space, tmp_path, "--trials", "3"), cwd=ROOT, stdout=file, stderr=file)
        while "trial 0: prune" not in log.read_text() or log.read_text().count("  trial ") < 3:
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    best = recipes.load(tmp_path / "out" / "best.yaml")
    assert best.engines, "the first trial's recipe was there when the second one began"
    done = subprocess.run(command(space, tmp_path, "--trials", "3", "--json"), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["trials"]) == 3
    assert found["trials"][0]["number"] == 0
    assert len({json.dumps(each["picked"], sort_keys=True) for each in found["trials"]}) == 3
    said = [line for line in done.stderr.splitlines() if "  trial 0" in line]
    assert said == [], "the first trial was not tried again"
    more = subprocess.run(command(space, tmp_path, "--trials", "9", "--json"), cwd=ROOT, capture_output=True, text=True)
    found = json.loads(more.stdout)
    assert (len(found["trials"]), found["ended"]) == (4, "every combination was tried")


@pytest.mark.slow
def test_a_search_prints_its_front_and_exits_with_1_where_nothing_keeps_the_budget(
    space: Path, invoke: Callable[..., Result], tmp_path: Path
) -> None:
    folders = ("--store", tmp_path / "store", "-o", tmp_path / "out")
    result = invoke("search", space, "--budget", "kl=50", "--trials", 1, *folders)
    assert result.exit_code == 0, result.output
    assert "trials that no other one beats" in result.stdout
    assert f"recipe: {tmp_path}/out/best.yaml" in result.stdout
    result = invoke("search", space, "--budget", "size=1kB", "--trials", 1, *folders)
    assert result.exit_code == 1, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("No trial keeps every budget (1 trial")
    assert lines[1].startswith("nearest: trial 0: prune-ffn.ratio 0.25")
    assert lines[2].startswith("breach: cpu: size ")


PROGRAM = """
import sys
from pathlib import Path
from jobs_of_searches import Quiet
from compress.cli import main
from compress.core import lease
from compress.searching import side_by_side
if __name__ == "__main__":
    lease.SYSTEM = Path(sys.argv.pop(1))
    side_by_side.Trying = Quiet
    main(prog_name="compress")
"""


def side_by_side(space: Path, room: Path, *options: str) -> subprocess.Popen[str]:
    """A search with two workers, whose leases are of the test's own."""
    (room / "program.py").write_text(PROGRAM)
    arguments = [str(room), *command(space, room, "--on", "local:2", *options)[3:]]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, str(room / "program.py"), *arguments],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_whatever_is_killed_the_same_command_with_workers_tries_every_combination_once(
    space: Path, tmp_path: Path
) -> None:
    begun: list[str] = []
    for sent, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        job = side_by_side(space, tmp_path)
        for line in job.stderr:
            if ": made " in line and " trial " in line:
                break
        workers = children(job.pid)
        assert workers
        job.send_signal(sent)
        assert job.wait(60) == code
        until = time.monotonic() + 30
        while any(Path(f"/proc/{each}").exists() for each in workers):
            assert time.monotonic() < until
            time.sleep(0.05)
        begun.append(line)
    job = side_by_side(space, tmp_path, "--json")
    output, lines = job.communicate()
    assert job.returncode == 0, lines
    found = json.loads(output)
    assert (len(found["trials"]), found["ended"]) == (4, "every combination was tried")
    assert len({json.dumps(each["picked"], sort_keys=True) for each in found["trials"]}) == 4
    assert {each["state"] for each in found["trials"]} == {"measured"}
    assert found["best"]["number"] == found["compared"]["rows"][0]["trial"]
    assert recipes.load(tmp_path / "out" / "best.yaml").engines
