"""Hostile inputs are built small in a test's own folder; what they are made of is made once for all workers."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest
from click.testing import CliRunner, Result
from fuzz import corpus as seeds
from fuzz.trial import address_bytes

from compress.cli import main

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "data" / "golden"
LONGEST = 1000  # characters of an error line
SECONDS = 120
MORE_BYTES = 6 * 2**30  # that a test may map


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, its tokens, engine, run and store, and a foreign decoder; tests must not write into it."""
    own = tmp_path_factory.getbasetemp()
    return seeds.prepare((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "hostile-corpus")


@pytest.fixture(autouse=True)
def limited(corpus: Path) -> Iterator[None]:
    """A test that hangs, or asks for memory without measure, fails and lets the others run."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"no end after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (address_bytes() + MORE_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def invoke() -> Callable[..., Result]:
    """Run the command line in this process."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="compress")

    return run


@pytest.fixture
def refused(invoke: Callable[..., Result]) -> Callable[..., str]:
    """Run the command line, hold it to exit code 2 and one short error line that names what it should; that line."""

    def run(*arguments: object, named: tuple[object, ...] = ()) -> str:
        result = invoke(*arguments)
        return error_line(result.exit_code, result.output, result.stderr, named, result.exception)

    return run


@pytest.fixture
def works(invoke: Callable[..., Result]) -> Callable[..., str]:
    """Run the command line, hold it to exit code 0; its standard output."""

    def run(*arguments: object) -> str:
        result = invoke(*arguments)
        assert result.exit_code == 0, (result.output[-2000:], result.exception)
        return result.stdout

    return run


@pytest.fixture
def exported_pictures(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export of the tokenizer takes seconds; the engine of the same model has the same graphs."""
    import onnx_ir as ir

    def graph(module: object, given: object, name: str, *rest: str) -> ir.Model:
        return ir.load(corpus / "engine" / f"{name}.onnx")

    monkeypatch.setattr("export.tracing.export.plain_graph", graph)


@pytest.fixture
def process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a process of its own, with other variables and limits: `process("plan", x, file_kib=4)`.

    `code` runs a piece of Python instead.
    """

    def run(
        *arguments: object,
        code: str = "",
        file_kib: int = 0,
        address_gib: int = 0,
        closed: bool = False,
        **variables: str,
    ) -> subprocess.CompletedProcess[str]:
        def limit() -> None:
            if file_kib:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * file_kib, 1024 * file_kib))
            if address_gib:
                resource.setrlimit(resource.RLIMIT_AS, (address_gib * 2**30, address_gib * 2**30))
            if closed:
                os.close(1)

        return subprocess.run(
            [sys.executable, *(("-c", code) if code else ("-m", "compress")), *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables},
            stdout=None if closed else subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
            errors="replace", timeout=SECONDS, check=False, preexec_fn=limit,
        )  # fmt: skip

    return run


def error_line(
    code: int, output: str, stderr: str, named: tuple[object, ...] = (), raised: BaseException | None = None
) -> str:
    """The only error line of a refusal."""
    assert code == 2, (code, output[-2000:], raised)
    assert "Traceback" not in output + stderr
    lines = stderr.splitlines()
    errors = [line for line in lines if line.lower().startswith("error: ")]
    assert len(errors) == 1, stderr[-2000:]
    assert lines[-1] == errors[0], stderr[-2000:]
    assert len(errors[0]) < LONGEST
    for each in named:
        assert str(each) in errors[0], errors[0]
    return errors[0]


@pytest.fixture
def held() -> Callable[..., str]:
    """Hold a finished process to exit code 2 and one error line; that line."""

    def check(done: subprocess.CompletedProcess[str], named: tuple[object, ...] = ()) -> str:
        return error_line(done.returncode, done.stdout or "", done.stderr, named)

    return check
