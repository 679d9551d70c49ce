"""What verbs that draw pictures have in common: options of sampling and of what is written, and what is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress.cli.paths import OutputFile, UserPath
from compress.cli.terminal import print_json
from compress.core.settings import InputError
from export.runtime.options import OPTIONS

if TYPE_CHECKING:
    from export.runtime.output import Output

LAST_SEED = 2**64 - 1  # of pictures
THREADS = 2
Command = Callable[..., None]
seed_option = click.option(
    "--seed", type=click.IntRange(0, LAST_SEED), default=0, help="Seed of the pictures.  [default: 0]"
)


def sampling_options(command: Command) -> Command:
    """The settings of sampling as options."""
    for option in reversed(OPTIONS):
        number = click.IntRange if option.whole else click.FloatRange
        kind = click.Choice(option.words) if option.words else number(option.low, option.high)
        words = f"{option.help[0].upper()}{option.help[1:]}.  [default: the engine's]"
        command = click.option(option.flag, type=kind, help=words)(command)
    return command


def sheet_options(command: Command) -> Command:
    """`--grid`, `--out-dir` and `--name`."""
    command = click.option(
        "--name", metavar="PATTERN",
        help="Names of these files, like {name}-{index:03}.webp; {label} and {seed} can be told too.",
    )(command)  # fmt: skip
    command = click.option(
        "--out-dir", type=UserPath(), help="A folder for a file of each picture, with or without -o."
    )(command)
    return click.option("--grid", metavar="CxR", help="Columns x rows of the sheet, or its columns.  [default: 10]")(
        command
    )


def tell(text: str, value: dict[str, Any], as_json: bool) -> None:
    """Say what was made, for a person or a program."""
    if as_json:
        print_json(value)
    else:
        click.echo(text)


def places_of(sheet: Path | None, folder: Path | None, kind: str | None, name: str | None, grid: str | None) -> Output:
    """Where pictures go.

    Raises:
        InputError: the options do not go together.
    """
    from export.runtime.output import Output

    if kind == "webdataset":
        raise InputError("--format webdataset: is of shards, which -o takes; files in --out-dir are png, jpeg or webp")
    try:
        return Output(sheet, folder, kind, name, grid)
    except ValueError as error:
        raise InputError(str(error)) from error


def check_file(output: Path) -> None:
    """Refuse an `-o` that no file can be written to.

    Raises:
        click.BadParameter: says why.
    """
    context = click.get_current_context()
    (option,) = (each for each in context.command.params if each.name == "output")
    OutputFile().convert(output, option, context)
