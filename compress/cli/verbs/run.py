"""The command `run`: a whole recipe."""

from __future__ import annotations

from pathlib import Path

import click

from compress.cli.group import example, instead_options, json_option, leave, store_option
from compress.cli.paths import RecipeFile, UserPath
from compress.cli.saying import saying_options
from compress.cli.terminal import Terminal, console, print_json, print_line


@click.command()
@saying_options
@example("compress run quickstart")
@click.argument("recipe", type=RecipeFile())
@click.option("-o", "--output", type=UserPath(), help="The run's folder.  [default: runs/<recipe>]")
@instead_options
@store_option
@click.option("--skip-preflight", is_flag=True, help="Do not rehearse the chain on a two-layer copy first.")
@click.option(
    "--on",
    metavar="PLACE",
    default="",
    help="Who makes the engines, side by side: local:N (N processes), ray, or ray://HOST:PORT; or torchrun:N, N "
    "processes that train together.  [default: this process]",
)
@json_option
def run(
    recipe: Path,
    output: Path | None,
    model: str,
    tokens: str,
    store_path: Path | str,
    skip_preflight: bool,
    on: str,
    as_json: bool,
) -> None:
    """Compress, export, measure and judge: the whole recipe, a file or the name of a shipped one.

    Writes report.json, report.md, the engines and the pictures into the run's folder. What the store holds is reused.
    Exits with 1 if a gate is breached, 2 if the recipe or an input is wrong.
    """
    from compress.core.launched import refuse_torchrun
    from compress.core.strict_yaml import read_yaml
    from compress.recipe.early import check_recipe
    from compress.workers.place import place_of_run

    refuse_torchrun("compress run --on torchrun:N")
    place_of_run(on)
    check_recipe(read_yaml(recipe), recipe, model, tokens)  # said before anything heavy is imported
    from compress import api
    from compress.report.text.table import overview_table
    from compress.running import pipeline

    folder = output or api.run_folder(recipe, model)
    result = api.run(
        recipe,
        folder,
        model=model,
        tokens=tokens,
        store=store_path,
        listener=Terminal(),
        preflight=not skip_preflight,
        on=on,
    )
    if as_json:
        print_json(result)
    else:
        shown = console()
        shown.print(overview_table(result, shown.width))
        for line in pipeline.closing_lines(result, folder):
            print_line(line)
    leave(passed=result.verdict.passed)
