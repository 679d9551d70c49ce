"""Kill `compress run` and `compress train` at random points, resume them, and compare with jobs that were left alone.

    python tests/crash.py --points 200 --seed 0        (make crash-test)

Each attempt is a process of its own, ended by SIGKILL after a random share of the time that the whole job takes; the
next attempt goes on from what it left. When one ends by itself, its results are held against those of a job that was
never killed: artifacts, engines and weights byte for byte, measurements and reports apart from times. Then the job
begins anew. `--elsewhere` compares jobs in another folder, time zone, locale and with other threads instead.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CHECKPOINT_S = 0.02  # between checkpoints, in place of a minute: a tiny training lasts seconds
TRAIN = """\
name: crash
seed: 3
tokens: digits
model: {grid: [8, 8], vocabulary: 17, classes: 10, width: 32, layers: 1, heads: 4, head_width: 8, ffn: 40}
train: {steps: 80, batch: 16, warmup: 5, validate_every: 20, threads: 1}
"""
RUN = """\
model:  {checkpoint: ../model}
tokens: {source: digits, calibration: 16, held_out: 4}
bench:  {batch: [1], threads: 1, repeats: 6, samples: 10}
passes:
  - distill: {steps: 60, batch: 8, validate_every: 20, patience: 0, hidden: 0}
engines:
  cpu: [export: {target: onnxruntime}]
gate: {kl: 50}
"""
# What depends on how long something took, or on where it lies.
TIMED = re.compile(
    r"speed|pays|seconds|ms_per|peak_mib|low_precision|single_file|command|earlier|joules|_ms$|^checkpoint$|^environment$"
)
HEAVY = (
    "compress.running.pipeline",
    "compress.training.transformer",
    "compress.cli",
    "compress.passes.distill",
    "sklearn.svm",
    "onnxscript",
)


@dataclass
class Job:
    """A verb in a folder of its own, and how often it was killed."""

    name: str
    folder: Path
    arguments: tuple[str, ...]
    seconds: float = 0.0
    expected: dict[str, str] = field(default_factory=dict)
    kills: int = 0
    ends: int = 0

    def attempt(self, limit_s: float = float("inf"), environment: dict[str, str] | None = None) -> bool:
        """Run it in a process of its own, killed after `limit_s` seconds; whether it ended by itself, well.

        With an environment, in a new interpreter; else in a copy of this one, which has everything imported.

        Raises:
            RuntimeError: it ended badly.
        """
        log = self.folder.with_suffix(".log")
        child = os.fork()
        if child == 0:
            become(self.arguments, self.folder, log, environment)
        deadline = time.monotonic() + limit_s
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
            if time.monotonic() >= deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                self.kills += 1
                return False
            time.sleep(0.001)
        said = log.read_text(errors="replace")
        if ended[1] != 0 or "Traceback" in said:
            raise RuntimeError(f"{self.name}, behind {self.kills} kills: status {ended[1]}: {said[-2000:]}")
        self.ends += 1
        return True

    def clear(self) -> None:
        """Remove what it left."""
        for name in ("store", "out"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def results(self) -> dict[str, str]:
        """Every result by its name, as a hash; JSON without times."""
        found = {}
        for path in sorted(self.folder.glob("out/**/*")):
            if path.is_file() and path.suffix not in (".md", ".html"):  # made of report.json, and of times
                found[path.relative_to(self.folder).as_posix()] = content(path)
        for path in sorted(self.folder.glob("store/artifacts/*/*")):
            found[path.relative_to(self.folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(self.folder.glob("store/measurements/*.json")):
            found[path.relative_to(self.folder).as_posix()] = content(path)
        return found


def become(arguments: tuple[str, ...], folder: Path, log: Path, environment: dict[str, str] | None) -> None:
    """Be `compress` in a folder; what it says goes into the log."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    code: Any = 70
    try:
        os.chdir(folder)
        if environment is not None:
            command = [sys.executable, "-m", "compress", *arguments]
            os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": str(ROOT), **environment})
        from compress.cli import main
        from compress.training import loop as training

        assert training.fit.__kwdefaults__ is not None
        training.fit.__kwdefaults__["checkpoint_seconds"] = CHECKPOINT_S
        main(list(arguments), prog_name="compress")
    except SystemExit as end:
        code = end.code
    finally:
        os._exit(code if isinstance(code, int) else 70)


def content(path: Path) -> str:
    """The hash of a file; of JSON, without what depends on times."""
    data = path.read_bytes()
    if path.suffix == ".json":
        data = json.dumps(timeless(json.loads(data)), sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def timeless(value: Any) -> Any:
    """A value without the keys that depend on times, and without the hash of what holds them."""
    if isinstance(value, list):
        return [timeless(each) for each in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"key", "sha256", "value"}:  # a measurement; one of times has nothing left to compare
        timed = set(value["value"]) in ({"rows"}, {"value"})  # speed; the share of time in low precision
        return value["key"] if timed else timeless({name: value[name] for name in ("key", "value")})
    return {name: timeless(each) for name, each in value.items() if not TIMED.search(name)}


def jobs(room: Path) -> list[Job]:
    """The two verbs; the model that `run` compresses is what `train` makes."""
    made = []
    for name, recipe, arguments in (
        ("train", TRAIN, ("train", "recipe.yaml", "-o", "out")),
        ("run", RUN, ("run", "recipe.yaml", "-o", "out", "--store", "store", "--skip-preflight")),
    ):
        (room / name).mkdir(parents=True)
        (room / name / "recipe.yaml").write_text(recipe)
        made.append(Job(name, room / name, arguments))
    return made


def prepare(made: list[Job]) -> None:
    """Do each job once, undisturbed: what it gives, and how long it takes."""
    for job in made:
        started = time.monotonic()
        job.attempt()
        job.seconds, job.expected = time.monotonic() - started, job.results()
        if job.name == "train":
            shutil.copytree(job.folder / "out", job.folder.parent / "model")
            (job.folder.parent / "model" / "training.json").unlink()
        job.clear()


def compare(job: Job, found: dict[str, str]) -> list[str]:
    """The names of the results that are not as expected."""
    names = sorted(set(found) | set(job.expected))
    return [name for name in names if found.get(name) != job.expected.get(name)]


def check_store(folder: Path) -> None:
    """Hold the store to its promise at any moment: what it holds is whole.

    Raises:
        RuntimeError: an artifact or a record is damaged.
    """
    from compress.core.store import Store

    store = Store(folder)
    damaged = [*store.damaged(), *(row["key"] for row in store.rows() if row["pass"] == "(damaged)")]
    if damaged:
        raise RuntimeError(f"damaged by a kill: {damaged}")


def crash(made: list[Job], points: int, seed: int, limit_s: float) -> None:
    """Kill the jobs until there were so many kills, or the time is up; then let each end.

    Raises:
        RuntimeError: a job ended badly, or its results are others.
    """
    chance, started = random.Random(seed), time.monotonic()
    while sum(job.kills for job in made) < points and time.monotonic() - started < limit_s:
        job = min(made, key=lambda job: job.kills)
        job.clear()
        while not job.attempt(chance.uniform(0, job.seconds) if sum(j.kills for j in made) < points else float("inf")):
            check_store(job.folder / "store")
        if differing := compare(job, job.results()):
            raise RuntimeError(f"{job.name}: behind {job.kills} kills these differ: {differing}")
        print(f"{job.name}: {job.kills} kills, {job.ends} ends, all equal", flush=True)
    total = ", ".join(f"{job.name} {job.kills} kills and {job.ends - 1} ends" for job in made)
    print(f"{sum(job.kills for job in made)} kills (seed {seed}, {time.monotonic() - started:.0f} s): {total}; every "
          "result is equal")  # fmt: skip


def elsewhere(made: list[Job], room: Path) -> None:
    """Do each job again under other circumstances, and print which results differ."""
    for job in made:
        recipe = (job.folder / "recipe.yaml").read_text()
        for name, environment, text in (
            ("the same again", {}, recipe),
            ("another folder", {}, recipe),
            ("another time zone", {"TZ": "Pacific/Kiritimati"}, recipe),
            ("another locale", {"LC_ALL": "C", "LANG": "C"}, recipe),
            ("another hash seed", {"PYTHONHASHSEED": "7"}, recipe),
            ("OMP_NUM_THREADS=4", {"OMP_NUM_THREADS": "4"}, recipe),
            ("threads: 2", {}, recipe.replace("threads: 1", "threads: 2")),
        ):
            folder = job.folder
            if name == "another folder":
                folder = room / "else where" / job.name
                folder.parent.mkdir(exist_ok=True)
                shutil.copytree(job.folder, folder)
                shutil.copytree(room / "model", folder.parent / "model", dirs_exist_ok=True)
            (folder / "recipe.yaml").write_text(text)
            other = Job(job.name, folder, job.arguments)
            other.clear()
            other.attempt(environment=environment)
            differing = compare(job, other.results())
            print(f"{job.name}: {name}: {len(differing)} of {len(job.expected)} differ {differing[:6]}", flush=True)
            other.clear()
        (job.folder / "recipe.yaml").write_text(recipe)


def warm(export: bool) -> None:
    """Import what the jobs need, once, so that an attempt spends its time on work; no thread is started."""
    for name in HEAVY if export else HEAVY[1:3]:
        importlib.import_module(name)
    if not export:
        return
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as room:
        given = (torch.zeros(2, 2),)
        torch.onnx.export(torch.nn.Identity().eval(), given, Path(room) / "x.onnx", dynamo=True, verbose=False)


def main() -> None:
    """Do what the options ask for; exit code 0 if every result is equal."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--points", type=int, default=200, help="kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds; the kills so far are then told")
    parser.add_argument("--job", nargs="+", choices=("train", "run"), default=["train", "run"])
    parser.add_argument("--elsewhere", action="store_true", help="compare under other circumstances instead")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    warm(export="run" in args.job)
    with tempfile.TemporaryDirectory(prefix="compress-crash-") as name:
        room = Path(name)
        made = jobs(room)[: 2 if "run" in args.job else 1]
        prepare(made)
        print(", ".join(f"{job.name} takes {job.seconds:.1f} s" for job in made), flush=True)
        made = [job for job in made if job.name in args.job]
        if args.elsewhere:
            elsewhere(made, room)
        else:
            crash(made, args.points, args.seed, args.limit)


if __name__ == "__main__":
    main()
