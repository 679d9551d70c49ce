"""How a verb is declared, and how every one ends: with its exit code, and with one line for every error."""

from __future__ import annotations

import contextlib
import errno
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from compress.cli import signals, streams, unexpected
from compress.cli.paths import StorePlace
from compress.core.launched import SaidElsewhereError, end_after_others, speaks
from compress.core.settings import MOST_THREADS, InputError, cut, nearest, shown
from export.runtime.devices import NAMES as DEVICES

MOST_SAID = 400  # characters of what click says of a wrong option or argument
MOST_ERROR = 900  # characters of an error line, whose values are short but whose paths may not be
BREACH = 1
BAD_INPUT = 2
UNEXPECTED = 70  # EX_SOFTWARE of sysexits.h

EXIT_CODES = """\b
Exit codes:
  0    well
  1    a gate was breached
  2    bad usage or bad input, or a full disk
  70   an unexpected error; one line says where its details were written
  130  interrupted (143 by SIGTERM, 129 by SIGHUP)"""


class Group(click.Group):
    """Verbs in the order of a user's day, with did-you-mean; `main` ends every one of them.

    Exit code 1 is a breached gate and nothing else: only `leave` gives it.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs as they were added."""
        return list(self.commands)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a verb, with the option `--debug`."""
        cmd.params.append(debug_option())
        super().add_command(cmd, name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb that was typed, or the nearest one in the error."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(f"no verb is called {shown(args[0])}; {nearest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the verb that the arguments name, and leave with its exit code."""
        words = list(sys.argv[1:] if args is None else args)
        if not standalone_mode:
            return super().main(words, prog_name, complete_var, standalone_mode=False, **extra)
        program = prog_name or program_name()
        with streams.tolerant() as standard, unexpected.of_threads() as lost, signals.stoppable() as stop:
            try:
                code = self.ended(words, program, complete_var, extra, stop)
            except KeyboardInterrupt:  # while an end was being reported
                code = stop.code
            stop.over()
            if lost and code != UNEXPECTED and not stop.number:
                code = self.say_error(lost[0], words)
            code = standard.outcome(code)
        sys.exit(code)

    def ended(
        self, words: list[str], program: str, complete_var: str | None, extra: dict[str, Any], stop: signals.Stop
    ) -> int:
        """Run the verb; its exit code, with one line on standard error for every error."""
        try:
            try:
                self._main_shell_completion(extra, program, complete_var)
            except SystemExit as done:  # with 1 for a shell that click does not know
                return BAD_INPUT if done.code else 0
            with own_warnings_in_a_line(), self.make_context(program, list(words), **extra) as context:
                self.invoke(context)
            return 0
        except click.exceptions.Exit as end:
            return end.exit_code
        except click.ClickException as wrong:
            if speaks():
                in_one_line(wrong).show()
            else:
                end_after_others()
            return BAD_INPUT
        except SaidElsewhereError:
            end_after_others()
            return BAD_INPUT
        except BaseException as error:  # also what is no Exception: a panic of a library written in Rust, or its exit
            if stop.number or isinstance(error, KeyboardInterrupt):  # a library may turn an interruption into an error
                if speaks():
                    click.echo(f"\n{stop.words()}", err=True)
                return stop.code
            return self.say_error(error, words)

    def say_error(self, error: BaseException, words: Sequence[str]) -> int:
        """Say what went wrong; the exit code."""
        if (text := mendable(error)) is not None:
            click.echo(f"error: {bounded(text, MOST_ERROR)}", err=True)
            return BAD_INPUT
        if "--debug" in words:
            click.echo(unexpected.trace(error), err=True, nl=False)
        else:
            click.echo(f"error: {unexpected.line(error, self.verb(words), words)}", err=True)
        return UNEXPECTED

    def verb(self, words: Sequence[str]) -> str:
        """The verb that the arguments name, for a message; empty if there is none."""
        for place, word in enumerate(words):
            if (command := self.commands.get(word)) is not None:
                inner = command.verb(words[place + 1 :]) if isinstance(command, Group) else ""
                return f"{word} {inner}".rstrip()
        return ""


def mendable(error: BaseException) -> str | None:
    """What a user can do something about, in one line; None for everything else."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError) and error.errno not in (None, errno.EPIPE, errno.ENOMEM):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}"
    from compress.core.store import is_full
    from export.runtime.errors import EngineError

    if isinstance(error, EngineError):
        return str(error)
    return "the disk is full; what was finished is kept, free space and run again" if is_full(error) else None


@contextlib.contextmanager
def own_warnings_in_a_line() -> Iterator[None]:
    """Show the project's own warnings as a user reads them, without the line of code that gave them."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if category.__module__.partition(".")[0] in ("compress", "export", "calibration"):
            click.echo(f"warning: {message}", err=True)
            saying.current().note(f"warning: {message}")
        else:
            usual(message, category, *place, **more)

    from compress.cli import saying  # which has options of its own, made with what is above

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = usual


def in_one_line(wrong: click.ClickException) -> click.ClickException:
    """The same complaint of click, without line breaks and of bounded length, whatever was typed."""
    text = bounded(wrong.format_message(), MOST_SAID)
    return click.UsageError(text, wrong.ctx) if isinstance(wrong, click.UsageError) else click.ClickException(text)


def bounded(text: str, most: int) -> str:
    """One line of about `most` characters, cut in the middle: the end says what would be right."""
    return cut(" ".join(text.splitlines()), most)


def leave(*, passed: bool) -> NoReturn:
    """End the verb: with 0, or with 1 because a gate was breached."""
    from compress.cli import saying

    if not passed:
        saying.current().note(f"not passed: exit code {BREACH}")
    click.get_current_context().exit(0 if passed else BREACH)


def program_name() -> str:
    """How the program was called, for the lines about its usage."""
    path = Path(sys.argv[0])
    return "python -m compress" if path.name == "__main__.py" else path.name


def debug_option() -> click.Option:
    """The option that shows an unexpected error's traceback; `Group.ended` looks for it."""
    return click.Option(
        ["--debug"], is_flag=True, expose_value=False, help="Show the traceback of an unexpected error."
    )


def example(text: str) -> Callable[[Any], Any]:
    """Show an example below a verb's help."""

    def decorate(function: Any) -> Any:
        function.__doc__ = f"{inspect.cleandoc(function.__doc__)}\n\n\b\nExample:\n  {text}\n"
        return function

    return decorate


on_option = click.option(
    "--on",
    metavar="PLACE",
    default="",
    help="Who trains: torchrun:N, N processes of this machine.  [default: this one]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def instead_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--model` and `--tokens`, which take the place of what a recipe says."""
    tokens = click.option("--tokens", default="", metavar="SOURCE", help="Pictures in place of the recipe's.")
    from compress.cli.completing import models

    model = click.option(
        "--model", default="", shell_complete=models, metavar="CHECKPOINT", help="A model in place of the recipe's."
    )
    return model(tokens(command))


store_option = click.option(
    "--store", "store_path", type=StorePlace(), default=Path(".compress"), show_default=True,
    help="Where artifacts and measurements are kept: a folder, or a URL such as s3://bucket/prefix.",
)  # fmt: skip
threads_option = click.option(
    "--threads", type=click.IntRange(1, MOST_THREADS), default=2, show_default=True, help="Runtime threads."
)


def device_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of what runs engines, and where."""
    command = click.option(
        "--require-plan", is_flag=True,
        help="Refuse an engine for TensorRT whose plan does not run here, which ONNX Runtime would draw with.",
    )(command)  # fmt: skip
    command = click.option(
        "--provider-option", "provider_options", multiple=True, metavar="NAME=VALUE",
        help="An option of the device's execution provider, like enable_cuda_graph=1; may be given several times.",
    )(command)  # fmt: skip
    return click.option(
        "--device", type=click.Choice(DEVICES),
        help="Where ONNX Runtime runs engines.  [default: cpu, or TensorRT where an engine has a plan]",
    )(command)  # fmt: skip


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
