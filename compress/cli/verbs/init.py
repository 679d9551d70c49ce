"""The command `init`: a recipe to begin with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from compress.cli.group import example, json_option
from compress.cli.paths import OutputFile, UserPath
from compress.cli.terminal import print_json
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
@json_option
def init(
    path: str, goal: str, output: str | None, force: bool, tokens: str, family: str, tokenizer: str,
    stated: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Write a commented recipe that suits a checkpoint, or two that train a model on a folder of pictures.

    Of a checkpoint no weight is computed with: passes that do not suit it are left out, and the recipe says why. What
    the run would cost is a range; `compress plan RECIPE --preflight` measures it.

    Without a CHECKPOINT or FOLDER it looks at the current folder.
    """
    from compress.drafting import folder

    if as_json and output == STDOUT:
        raise InputError("--json: the recipe itself goes to standard output; name a file with -o")
    given = UserPath().convert(path, None, None)
    if folder.holds_pictures(given):
        for option, value in (("--tokens", tokens), ("--family", family), ("--tokenizer", tokenizer)):
            if value:
                raise InputError(f"{option}: goes with a checkpoint; {given} is a folder of pictures")
        made = train(given, output, force)
    elif given.is_dir() and path == "." and not folder.holds_checkpoint(given):
        raise InputError(f"{path}: holds neither a checkpoint nor pictures; name one, for example  compress init emoji")
    else:
        from compress.drafting.facts import look

        made = draft_of(look(source_from(path, family, tokenizer, stated)), goal, output, force, tokens)
    made.show(output, as_json=as_json)


@dataclass(frozen=True)
class Begun:
    """What is written: recipes by their files; what was found and foreseen; and the commands that come next."""

    recipes: dict[Path, str]
    found: list[str]
    commands: list[str]

    def show(self, output: str | None, *, as_json: bool) -> None:
        """Write the recipes, and say the rest: on standard error where they go to standard output."""
        from compress.core.durable import write_text

        for file, text in self.recipes.items():
            if output == STDOUT:
                click.echo(text, nl=False)
            else:
                write_text(file, text)
        if as_json:
            print_json({"recipes": [str(each) for each in self.recipes], "found": self.found, "next": self.commands})
            return
        written = [] if output == STDOUT else [f"{file}: written" for file in self.recipes]
        for line in (*written, *self.found, "", "next:", *(f"  {each}" for each in self.commands)):
            click.echo(line, err=output == STDOUT)


def draft_of(facts: Facts, goal: str, output: str | None, force: bool, tokens: str) -> Begun:
    """The recipe of a checkpoint."""
    from compress.drafting.cost import foresee, speed_here
    from compress.drafting.goals import draft
    from compress.drafting.tokens import pictures_for
    from compress.drafting.writing import recipe_text

    file = place(output, f"{facts.name}-{goal}.yaml", force)
    made = draft(goal, facts)
    pictures = pictures_for(facts, tokens, made.calibration, made.held_out)
    cost = foresee(facts, made, pictures, speed_here(made.bench["threads"]))
    first = [f"compress tokens {pictures.folder} -o {pictures.source} --model {file}"] if pictures.folder else []
    return Begun(
        {file: recipe_text(facts, made, pictures, cost, file)},
        [f"{facts.path}: {facts.words()}", *cost.lines()],
        [
            *first,
            f"compress plan {file} --preflight   # rehearses it in seconds to minutes, and measures what it needs",
            f"compress run {file}",
            "compress schema recipe -o recipe.schema.json   # for editors, which complete and check the recipe by it",
        ],
    )


def train(given: Path, output: str | None, force: bool) -> Begun:
    """The recipes that train a tokenizer and a transformer on pictures."""
    from compress.drafting import folder

    name = folder.name_of(given)
    stem = Path(name if output in (None, STDOUT) else str(output).removesuffix(".yaml"))
    files = [place(output if output == STDOUT else None, f"{stem}-{part}.yaml", force) for part in folder.PARTS]
    made = folder.draft(given, name)
    texts = dict(zip(files, made.texts(*files), strict=True))
    return Begun(texts, list(made.lines()), list(made.commands(*files)))


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
