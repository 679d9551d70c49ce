"""The command `init`: a recipe to begin with."""

from __future__ import annotations

import click

from compress.cli.group import example, json_option
from compress.cli.paths import OutputFile, UserPath
from compress.cli.terminal import print_json
from compress.cli.verbs.models import source_from
from compress.core.settings import InputError

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
    from compress.drafting.beginning import begin

    printed = output == STDOUT
    if as_json and printed:
        raise InputError("--json: the recipe itself goes to standard output; name a file with -o")
    file = None if output is None or printed else OutputFile().convert(output, None, None)
    given = UserPath().convert(path, None, None)
    made = begin(source_from(path, family, tokenizer, stated), given, goal, tokens, file)
    if printed:
        click.echo("".join(made.recipes.values()), nl=False)
    else:
        made.write(force=force)
    if as_json:
        print_json({"recipes": [str(each) for each in made.recipes], "found": made.found, "next": made.commands})
        return
    written = [] if printed else [f"{each}: written" for each in made.recipes]
    for line in (*written, *made.found, "", "next:", *(f"  {each}" for each in made.commands)):
        click.echo(line, err=printed)
