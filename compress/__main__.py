"""`compress`, and `python -m compress` for machines where an old Unix program has the same name."""

import sys


def main() -> None:
    """Import the command line and run it; an installation that does not work is one line."""
    try:
        from compress.cli import main as verbs
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    except Exception as error:
        sys.stderr.write(f"error: compress cannot start: {type(error).__name__}: {error}; install it again\n")
        if "--debug" in sys.argv:
            sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(70)
    verbs()


if __name__ == "__main__":
    main()
