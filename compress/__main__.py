"""`compress`, and `python -m compress` for machines where an old Unix program has the same name."""

import contextlib
import os
import sys

# PyTorch's OpenMP threads wait for each other by spinning, about a millisecond until they sleep. Where something else
# wants the processor, every small product then takes that long: 64 steps of `digits` 15 to 60 s instead of 1.5. With
# 3,000 turns they take 3 s, and on a quiet machine the same time as before. It is read when PyTorch is imported.
SPINS = ("GOMP_SPINCOUNT", "3000")
# ONNX Runtime's own builds report to their maker how they are used. A command that sends nothing itself sends nothing
# through a library; who wants the reports sets the variable to 0. It is read when ONNX Runtime is imported.
REPORTS = ("ORT_DISABLE_TELEMETRY", "1")


def main() -> None:
    """Import the command line and run it; a broken installation and a hidden package are one line each."""
    from compress.core.hidden import HiddenPackageError, check_packages

    os.environ.setdefault(*SPINS)
    os.environ.setdefault(*REPORTS)
    try:
        check_packages()
        from compress.cli import main as verbs
    except KeyboardInterrupt:
        leave("interrupted", 130)
    except HiddenPackageError as hidden:
        leave(f"error: {hidden}", 2)
    except BaseException as error:
        if "--debug" in sys.argv:
            sys.excepthook(type(error), error, error.__traceback__)
        leave(f"error: compress cannot start: {type(error).__name__}: {error}; install it again", 70)
    verbs()


def leave(line: str, code: int) -> None:
    """Say one line, where standard error is open, and exit."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    sys.exit(code)


if __name__ == "__main__":
    main()
