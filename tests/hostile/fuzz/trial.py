"""Cases tried in a child process, one after the other; the parent counts a child that hangs or dies."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import resource
import select
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from unittest import mock

from fuzz.case import OUTSIDE, Case, Fault, judge

SECONDS = 60  # of one case; an ordinary one takes less than a tenth, and the machine may be busy
RESIDENT_MIB = 1024  # that one case may add at its peak; `profile` reads half of it to learn what the machine can do
ADDRESS_GIB = 4  # that a child may map beyond what it has when it begins
CHUNK = 200  # cases of one child
HEAVY = (
    "compress.data.editing",
    "compress.models.adopted",
    "compress.report.page.html",
    "compress.running.pipeline",
    "compress.training.transformer",
    "compress.verifying.comparison",
    "compress.verifying.golden",
    "compress.verifying.inspection",
)
OWN_FAULT = 99  # exit code of a child in which the fuzzer, not the product, failed


@dataclass(frozen=True)
class Number:
    """A case by what makes it: a seed, a kind and a number."""

    seed: int
    kind: str
    index: int

    def make(self, corpus: Path, room: Path) -> Case:
        """Write the mutated files into the room; the command line."""
        module = importlib.import_module(f"fuzz.kinds.{self.kind}")
        random = Random(f"{self.seed}:{self.kind}:{self.index}")
        made: Case = module.mutate(random, corpus, room)
        return made

    def __str__(self) -> str:
        return f"{self.kind}:{self.index}"


def run(numbers: list[Number], corpus: Path, kept: Path) -> Iterator[tuple[Number, Fault | None]]:
    """Try all cases; the fault of each, whose files are copied into a folder of `kept`, or None."""
    warm()
    while numbers:
        chunk, numbers = numbers[:CHUNK], numbers[CHUNK:]
        while chunk:
            done = 0
            for number, fault in in_child(chunk, corpus, kept):
                done += 1
                yield number, fault
            chunk = chunk[done:]


def warm() -> None:
    """Import what the verbs need once, so that no child has to; no threads are started."""
    for name in HEAVY:
        importlib.import_module(name)
    importlib.import_module("PIL.Image").init()


def in_child(chunk: list[Number], corpus: Path, kept: Path) -> Iterator[tuple[Number, Fault | None]]:
    """Outcomes of the cases up to the first one that hangs or kills the child, that one included."""
    reading, writing = os.pipe()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as room:
        child = os.fork()
        if not child:
            os.close(reading)
            code = OWN_FAULT
            try:
                try_all(chunk, corpus, Path(room), kept, writing)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(writing)
        for number in chunk:
            line = read_line(reading, 2 * SECONDS)
            if line:
                found = json.loads(line)
                yield number, Fault(**found) if found else None
                continue
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if os.waitstatus_to_exitcode(status) == OWN_FAULT:
                raise RuntimeError(f"the fuzzer itself failed at {number}")
            yield number, dead(number, Path(room), kept, status, hung=line is None)
            break
        else:
            os.waitpid(child, 0)
        os.close(reading)


def read_line(reading: int, seconds: float) -> bytes | None:
    """One line from a pipe: None if none comes in time, empty if the other end has closed."""
    line, until = b"", time.monotonic() + seconds
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([reading], [], [], max(0, until - time.monotonic()))
        if not ready:
            return None
        piece = os.read(reading, 1)
        if not piece:
            return b""
        line += piece
    return line


def dead(number: Number, room: Path, kept: Path, status: int, hung: bool) -> Fault:
    """The fault of a case whose process hung or died."""
    log = room / "stack"
    stack = log.read_text() if log.exists() else ""
    keep(number, room / "case", kept, stack)
    if hung or "Timeout" in stack:
        own = [
            line
            for line in stack.splitlines()
            if any(f"/{part}/" in line for part in ("compress", "export", "calibration"))
        ]
        return Fault("hang", own[0].strip() if own else "no stack", stack[:1500])
    return Fault("traceback", f"the process died, exit code {os.waitstatus_to_exitcode(status)}", stack[:1500])


def try_all(chunk: list[Number], corpus: Path, room: Path, kept: Path, writing: int) -> None:
    """Try cases in this process; a line of JSON for each."""
    from click.testing import CliRunner

    from compress.cli import main

    bound = address_bytes() + ADDRESS_GIB * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with (room / "stack").open("w") as stack:
        faulthandler.enable(stack)
        for number in chunk:
            own = room / "case"
            shutil.rmtree(own, ignore_errors=True)
            for name in ("in", "out", OUTSIDE):
                (own / name).mkdir(parents=True)
            os.chdir(own / "out")
            case = number.make(corpus, own / "in")
            before, resident = listing(own), reset_peak()
            faulthandler.dump_traceback_later(SECONDS, exit=True, file=stack)
            with contextlib.ExitStack() as stubs:
                for name, value in case.instead.items():
                    stubs.enter_context(mock.patch(name, value))
                result = CliRunner().invoke(main, list(case.arguments), prog_name="compress")
            faulthandler.cancel_dump_traceback_later()
            peak = peak_mib() - resident
            fault = judge(case, result)
            if fault is None and peak > RESIDENT_MIB:
                fault = Fault("memory", f"{case.arguments[0]}: {number.kind}", f"{peak:.0f} MiB more")
            if fault is None and listing(own) != before:
                fault = Fault("wrong success", "files were written outside the output folder", str(listing(own)))
            if fault is not None:
                words = " ".join(case.arguments)
                keep(number, own, kept, f"compress {words}\n{case.said}\n{fault}\n{result.output}")
            os.write(writing, json.dumps(asdict(fault) if fault else None).encode() + b"\n")


def keep(number: Number, own: Path, kept: Path, text: str) -> None:
    """Copy a failing case's files, with what was run beside them."""
    folder = kept / str(number).replace(":", "-")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copytree(own / "in", folder / "in", symlinks=True)
    (folder / "failure.txt").write_text(text, encoding="utf-8", errors="backslashreplace")


def listing(own: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file of a case but those in its output folder."""
    found = {}
    for path in own.rglob("*"):
        if path.relative_to(own).parts[0] != "out":
            status = path.lstat()
            found[str(path)] = (status.st_size, status.st_mtime_ns)
    return found


def status_kib(key: str) -> int:
    """A line of this process's status."""
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith(f"{key}:")).split()[1])


def address_bytes() -> int:
    """Bytes that this process has mapped."""
    return 1024 * status_kib("VmSize")


def reset_peak() -> float:
    """Begin a new peak of resident memory; what is resident now, MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return status_kib("VmRSS") / 1024


def peak_mib() -> float:
    """The peak since then."""
    return status_kib("VmHWM") / 1024
