"""The command `init`: a recipe to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from compress.cli.group import OutputFile, UserPath, example
from compress.cli.verbs.models import source_from
from compress.core.settings import InputError

if TYPE_CHECKING:
    from compress.drafting.facts import Facts

GOALS = ("lossless", "balanced", "fastest", "smallest", "tensorrt")
STDOUT = "-"


@click.command()
@example("compress init c2i_B_256.pt --tokenizer vq_ds16_c2i.pt --goal smallest")
@click.argument("path", metavar="[CHECKPOINT | FOLDER]", default=".")
@click.option("--goal", type=click.Choice(GOALS), default="balanced", show_default=True, help="What matters most.")
@click.option("-o", "--output", help="The recipe to write; - prints it.  [default: named for what it is of]")
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
@click.option("--tokens", default="", metavar="SOURCE", help="Pictures: a TokenSet (.npz) or a folder of them.")
@click.option("--family", default="", help="The checkpoint's format.  [default: recognised]")
@click.option("--tokenizer", default="", help="The image tokenizer's weights.")
@click.option("--set", "stated", multiple=True, metavar="KEY=VALUE", help="A key of config.json, as JSON.")
def init(
    path: str, goal: str, output: str | None, force: bool, tokens: str, family: str, tokenizer: str,
    stated: tuple[str, ...],
) -> None:  # fmt: skip
    """Write a commented recipe that suits a checkpoint, or two that train a model on a folder of pictures.

    Of a checkpoint no weight is computed with: passes that do not suit it are left out, and the recipe says why. What
    the run would cost is a range; `compress plan RECIPE --preflight` measures it.

    Without a CHECKPOINT or FOLDER it looks at the current folder.
    """
    from compress.drafting import folder

    given = UserPath().convert(path, None, None)
    if folder.holds_pictures(given):
        for option, value in (("--tokens", tokens), ("--family", family), ("--tokenizer", tokenizer)):
            if value:
                raise InputError(f"{option}: goes with a checkpoint; {given} is a folder of pictures")
        train(given, output, force)
        return
    if given.is_dir() and path == "." and not folder.holds_checkpoint(given):
        raise InputError(f"{path}: holds neither a checkpoint nor pictures; name one, for example  compress init emoji")
    from compress.drafting.facts import look

    draft_of(look(source_from(path, family, tokenizer, stated)), goal, output, force, tokens)


def draft_of(facts: Facts, goal: str, output: str | None, force: bool, tokens: str) -> None:
    """Write the recipe of a checkpoint, and say what comes next."""
    from compress.drafting.cost import foresee, speed_here
    from compress.drafting.goals import draft
    from compress.drafting.tokens import pictures_for
    from compress.drafting.writing import recipe_text

    file = place(output, f"{facts.name}-{goal}.yaml", force)
    made = draft(goal, facts)
    pictures = pictures_for(facts, tokens, made.calibration, made.held_out)
    cost = foresee(facts, made, pictures, speed_here(made.bench["threads"]))
    write(recipe_text(facts, made, pictures, cost, file), file, output)
    say = printer(output)
    say(f"{facts.path}: {facts.words()}")
    for line in cost.lines():
        say(line)
    say("")
    say("next:")
    if pictures.folder:
        say(f"  compress tokens {pictures.folder} -o {pictures.source} --model {file}")
    say(f"  compress plan {file} --preflight   # rehearses it in seconds to minutes, and measures what it needs")
    say(f"  compress run {file}")
    say("  compress schema recipe -o recipe.schema.json   # for editors, which complete and check the recipe by it")


def train(given: Path, output: str | None, force: bool) -> None:
    """Write the recipes that train a tokenizer and a transformer on pictures, and say what comes next."""
    from compress.drafting import folder

    name = folder.name_of(given)
    stem = Path(name if output in (None, STDOUT) else str(output).removesuffix(".yaml"))
    files = [place(output if output == STDOUT else None, f"{stem}-{part}.yaml", force) for part in folder.PARTS]
    made = folder.draft(given, name)
    say = printer(output)
    for text, file in zip(made.texts(*files), files, strict=True):
        write(text, file, output)
    for line in made.lines():
        say(line)
    say("")
    say("next:")
    for command in made.commands(*files):
        say(f"  {command}")


def place(output: str | None, usual: str, force: bool) -> Path:
    """The file to write.

    Raises:
        InputError: it is there already.
        click.BadParameter: it cannot be written.
    """
    if output == STDOUT:
        return Path(usual)
    file = OutputFile().convert(output or usual, None, None)
    if file.exists() and not force:
        raise InputError(f"{file}: is there already; name another file with -o, or give --force")
    return file


def write(text: str, file: Path, output: str | None) -> None:
    """Write a recipe, or print it."""
    from compress.core.durable import write_text

    if output == STDOUT:
        click.echo(text, nl=False)
        return
    write_text(file, text)
    click.echo(f"{file}: written")


def printer(output: str | None):  # type: ignore[no-untyped-def]
    """What says lines for a person: on standard error, where a recipe goes to standard output."""
    return lambda text: click.echo(text, err=output == STDOUT)
