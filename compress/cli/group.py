"""How a verb is declared: in a group that turns every mendable error into one line, with an example in its help."""

from __future__ import annotations

import errno
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from compress.settings import InputError, nearest, shown

BREACH = 1
BAD_INPUT = 2
INTERRUPTED = 130


class Group(click.Group):
    """Verbs in the order of a user's day, with did-you-mean, and one line for every error a user can mend."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs as they were added."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb that was typed, or the nearest one in the error."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"no verb is called {shown(args[0])}; {nearest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            fail(str(error))
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # whoever read our output has gone; click ends quietly
            place = f"{error.filename}: " if error.filename else ""
            fail(f"{place}{error.strerror or error}")
        except KeyboardInterrupt:
            click.echo("\ninterrupted; what was finished is kept, and the next run goes on from there", err=True)
            sys.exit(INTERRUPTED)


def fail(text: str) -> None:
    """One clear line, exit code 2."""
    click.echo(f"error: {text}", err=True)
    sys.exit(BAD_INPUT)


def example(text: str) -> Callable[[Any], Any]:
    """Show an example below a verb's help."""

    def decorate(function: Any) -> Any:
        function.__doc__ = f"{inspect.cleandoc(function.__doc__)}\n\n\b\nExample:\n  {text}\n"
        return function

    return decorate


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
store_option = click.option(
    "--store", "store_path", type=click.Path(path_type=Path), default=Path(".compress"), show_default=True,
    help="Where artifacts and measurements are kept.",
)  # fmt: skip
threads_option = click.option(
    "--threads", type=click.IntRange(1), default=2, show_default=True, help="Runtime threads."
)


def whole_numbers(text: str, option: str, example: str, low: int = 0) -> list[int]:
    """The numbers of an option like 1,8.

    Raises:
        InputError: it is no such list, or a number is below `low`.
    """
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option}: {shown(text)} is not a list of whole numbers like {example}") from None
    if min(numbers) < low:
        raise InputError(f"{option}: {min(numbers)} is out of range; it must be at least {low}")
    return numbers
