"""One mutated input with its command line, and how its outcome is judged."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import Result

LONGEST = 1000  # characters of an error line
OUTSIDE = "outside"  # a folder beside the case's own, which nothing may write into


@dataclass(frozen=True)
class Case:
    """A command line on mutated files.

    `wrong` says why a success would be wrong, empty where it may be right. `right` says why a refusal would be wrong.
    `named` must stand in the line of a refusal. `breach`: exit code 1 is a possible verdict. `after` looks at what a
    success has made, and says what is wrong with it. `instead` replaces what is slow and reads nothing of the input.
    """

    arguments: tuple[str, ...]
    said: str
    wrong: str = ""
    right: str = ""
    named: str = ""
    breach: bool = False
    after: Callable[[str], str] | None = None
    instead: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """What is wrong with an outcome: its class, what tells it from others of the class, and details."""

    kind: str
    signature: str
    details: str = ""


def judge(case: Case, result: Result) -> Fault | None:
    """The fault of an outcome, or None."""
    code, lines = result.exit_code, result.stderr.splitlines()
    if code not in (0, 1, 2) or not isinstance(result.exception, (SystemExit, type(None))):
        return traceback_of(result)
    if code == 2:
        return judge_refusal(case, lines)
    if code == 1 and not (case.breach and re.search("breach|DIFFERS|departs", result.stdout)):
        return Fault("traceback", "exit 1 without a breach", result.output[-1000:])
    if case.wrong:
        return Fault("wrong success", case.wrong, result.output[-1000:])
    if code == 0 and case.after is not None and (found := case.after(result.stdout)):
        return Fault("wrong success", found, result.output[-1000:])
    return None


def judge_refusal(case: Case, lines: list[str]) -> Fault | None:
    """The fault of an exit with code 2: no error line, more than one, a long one, one that names something else."""
    errors = [line for line in lines if line.lower().startswith("error: ")]
    if len(errors) != 1:
        return Fault("traceback", f"exit 2 with {len(errors)} error lines", "\n".join(lines)[-1000:])
    line = errors[0]
    after = lines[lines.index(line) + 1 :]
    if after:
        return Fault("traceback", "exit 2 with lines behind the error", "\n".join(lines)[-1000:])
    if len(line) > LONGEST:
        return Fault("wrong success", "an error line above 1,000 characters", line[:300])
    if case.right:
        return Fault("wrong refusal", case.right, line)
    if case.named and case.named not in line:
        return Fault("wrong success", f"the error line does not name {case.named}", line)
    return None


def traceback_of(result: Result) -> Fault:
    """What was raised, and the innermost line of the product; from the file of details that the error line names."""
    named = [Path(word.rstrip(".,;)")) for word in result.stderr.split() if word.startswith("/")]
    details = next((path for path in named if path.is_file() and path.suffix in (".txt", ".log")), None)
    error = result.exception
    if details is not None:
        text = details.read_text(encoding="utf-8", errors="replace")
        details.unlink()
    elif error is not None and not isinstance(error, SystemExit):
        text = "".join(traceback.format_exception(error))
    else:
        return Fault("traceback", f"exit {result.exit_code}", result.output[-1000:])
    frames = re.findall(r'File "([^"]*/(?:compress|export|calibration)/[^"]*)", line (\d+)', text)
    at = f"{'/'.join(Path(frames[-1][0]).parts[-2:])}:{frames[-1][1]}" if frames else "nowhere in the product"
    raised = re.findall(
        r"^([\w.]*(?:Error|Exception|Miss|Interrupt|Fault|Failure|Bomb|\w+Zip\w*|Panic\w*))(?::|$)", text, re.MULTILINE
    )
    return Fault("traceback", f"{raised[-1] if raised else 'something'} at {at}", text[-600:])
