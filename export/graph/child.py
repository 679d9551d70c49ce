"""Run a program of this project in a process of its own, where it may crash, hang or run out of memory."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

REQUEST, ANSWER = "request.json", "answer.json"


class ChildError(Exception):
    """The process gave no answer."""


class ChildTimeoutError(ChildError):
    """It did not end in time."""


def ask(program: str, request: dict[str, Any], folder: Path, seconds: float) -> Any:
    """What a Python program answers that is given a folder: it reads REQUEST there, and writes ANSWER.

    Raises:
        ChildTimeoutError: it did not end within `seconds`.
        ChildError: it ended without an answer; the message says how, ``signal 11 (SIGSEGV)``.
    """
    question, answer = folder / REQUEST, folder / ANSWER
    answer.unlink(missing_ok=True)
    question.write_text(json.dumps(request), encoding="utf-8")
    spec = importlib.util.find_spec("export")
    assert spec is not None
    assert spec.origin is not None
    search = os.pathsep.join(filter(None, [str(Path(spec.origin).parents[1]), os.environ.get("PYTHONPATH")]))
    try:
        ended = subprocess.run(  # -P: a folder called `export` where the user happens to be is not ours
            [sys.executable, "-P", "-c", program, str(folder)],
            env={**os.environ, "PYTHONPATH": search},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
        if not answer.exists():
            raise ChildError(ending(ended.returncode))
        return json.loads(answer.read_text(encoding="utf-8"))
    except subprocess.TimeoutExpired:
        raise ChildTimeoutError(f"it did not end within {seconds:g} s") from None
    finally:
        question.unlink(missing_ok=True)
        answer.unlink(missing_ok=True)


def ending(code: int) -> str:
    """How a process ended."""
    if code >= 0:
        return f"code {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"
