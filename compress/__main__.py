"""`compress`, and `python -m compress` for machines where an old Unix program has the same name."""

import contextlib
import sys


def main() -> None:
    """Import the command line and run it; a broken installation and a hidden package are one line each."""
    from compress.core.hidden import HiddenPackageError, check_packages

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
