"""The command of the runtime: draw pictures with an engine folder, onto a sheet or into a file each.

Exit codes are those of the main command: 0 success; 2 bad usage or bad input; 70 an unexpected error; 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from .devices import NAMES, parsed_options
from .errors import EngineError
from .options import FORMATS, OPTIONS, Sampling

BAD_INPUT, UNEXPECTED, INTERRUPTED = 2, 70, 130
# ONNX Runtime's own builds report to their maker how they are used, unless this is set before it is imported.
NO_REPORTS = ("ORT_DISABLE_TELEMETRY", "1")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and leave."""
        self.exit(BAD_INPUT, f"error: {message}; {self.prog} --help shows the usage\n")


def positive(text: str) -> int:
    """A whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is out of range; it must be at least 1")
    return number


def parser() -> Parser:
    """The options, which are those of `compress generate`."""
    name = Path(sys.argv[0]).name
    made = Parser(
        prog=f"python -m {__package__}" if name == "__main__.py" else name,
        description="Draw pictures with an engine folder, onto a sheet or into a file each.",
        epilog="exit codes: 0 success; 2 bad usage or bad input; 70 an unexpected error; 130 interrupted",
        allow_abbrev=False,
    )
    made.add_argument("engine", type=Path, metavar="ENGINE", help="the folder of an engine")
    made.add_argument("--labels", help="classes, by number or name, separated by commas")
    made.add_argument("--count", type=positive, help="how many pictures of a model without classes (default: 1)")
    made.add_argument("--features", type=Path, help="features of texts, .npy (pictures, length, width)")
    made.add_argument("-o", "--output", type=Path, help="a sheet of all pictures; PNG, JPEG or WebP by its name")
    made.add_argument("--grid", metavar="CxR", help="columns x rows of the sheet, or columns (default: 10)")
    made.add_argument("--out-dir", type=Path, help="a folder for a file of each picture")
    made.add_argument("--format", choices=FORMATS, help="of these files (default: by --name, or png)")
    made.add_argument("--name", metavar="PATTERN", help="of these files, like {name}-{index:03}.webp")
    made.add_argument("--json", action="store_true", help="print JSON instead of a line")
    made.add_argument("--seed", type=int, default=0, help="seed of the pictures (default: 0)")
    for option in OPTIONS:
        kind = str if option.words else int if option.whole else float
        words = f"{option.help} (default: the engine's)"
        made.add_argument(option.flag, type=kind, choices=option.words or None, help=words)
    made.add_argument("--batch", type=positive, default=0, help="pictures drawn at once (default: as memory allows)")
    made.add_argument("--threads", type=positive, default=2, help="threads of ONNX Runtime (default: 2)")
    made.add_argument("--device", choices=NAMES, help="where ONNX Runtime runs it (default: cpu)")
    made.add_argument(
        "--provider-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the device's execution provider, like enable_cuda_graph=1",
    )
    made.add_argument(
        "--require-plan",
        action="store_true",
        help="refuse an engine for TensorRT whose plan does not run here, which ONNX Runtime would draw with",
    )
    made.add_argument("--debug", action="store_true", help="show the traceback of an unexpected error")
    return made


def main(words: Sequence[str] | None = None) -> int:
    """Draw what the arguments say; the exit code, with one line on standard error for every error."""
    arguments = parser().parse_args(words)
    os.environ.setdefault(*NO_REPORTS)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *place, **more: say(f"warning: {message}", sys.stderr)
            line = drawn(arguments)
        say(line, sys.stdout)
        return 0
    except KeyboardInterrupt:
        return ended("interrupted", INTERRUPTED)
    except (EngineError, ValueError) as error:
        return ended(f"error: {error}", BAD_INPUT)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return ended(f"error: {place}{error.strerror or error}", BAD_INPUT)
    except Exception as error:
        if arguments.debug:
            traceback.print_exc()
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return ended(f"error: unexpected {text}; --debug shows where", UNEXPECTED)


def drawn(arguments: argparse.Namespace) -> str:
    """Draw and write; what is said of it.

    Raises:
        EngineError: the engine cannot be used.
        ValueError: an option is out of range, or the output cannot be written.
    """
    sheet = arguments.output
    if sheet is not None and (sheet.is_dir() or not sheet.parent.is_dir()):
        raise ValueError(f"--output: {sheet}: name a file in a folder that exists")
    from .engine import Engine
    from .heeded import sampler_of
    from .noise import check_seed
    from .output import Output
    from .picture_files import Facts
    from .request import wanted

    output = Output(sheet, arguments.out_dir, arguments.format, arguments.name, arguments.grid)
    options = parsed_options(arguments.provider_option)
    engine = Engine.load(
        arguments.engine,
        arguments.threads,
        device=arguments.device,
        provider_options=options,
        require_plan=arguments.require_plan,
    )
    labels, features = wanted(engine.shape, arguments.labels, arguments.count, arguments.features)
    settings: dict[str, Any] = {name: getattr(arguments, name) for name in Sampling.__annotations__}
    check_seed(arguments.seed)
    sampler = sampler_of(engine.shape, engine.sampler, **settings)
    facts = Facts(engine.shape, sampler, arguments.seed, labels, engine.sha256)
    output.check(facts)
    started = time.perf_counter()
    images = engine.generate(labels, arguments.seed, features=features, batch=arguments.batch, **settings)
    seconds = time.perf_counter() - started
    output.write(images, facts)
    return json.dumps(output.said(facts, seconds), indent=1) if arguments.json else output.line(len(images), seconds)


def say(line: str, stream: Any) -> None:
    """Print a line, unless nobody reads it."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        print(line, file=stream, flush=True)


def ended(line: str, code: int) -> int:
    """Say one line on standard error; the exit code."""
    say(" ".join(line.splitlines()), sys.stderr)
    return code


def program() -> NoReturn:
    """The command: leave with its exit code."""
    sys.exit(main())


if __name__ == "__main__":
    program()
