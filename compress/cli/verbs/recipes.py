"""The command `recipes`: the recipes that come with the project."""

from __future__ import annotations

import click

from compress.cli import completing
from compress.cli.group import example, json_option
from compress.cli.terminal import print_json, print_rows


@click.command()
@example("compress recipes quickstart > mine.yaml")
@click.argument("name", required=False, shell_complete=completing.recipes)
@json_option
def recipes(name: str | None, as_json: bool) -> None:
    """List the shipped recipes, or print one as a start for your own.

    Their verbs take them by name.
    """
    from compress.core.settings import InputError, nearest
    from compress.recipe import shipped

    if name is not None and name not in shipped.names():
        raise InputError(f"no shipped recipe is called '{name}'; {nearest(name, shipped.names())}")
    if name is None:
        rows = shipped.listed()
        if as_json:
            print_json(rows)
        else:
            print_rows("recipes", ["recipe", "verb", "what it is for"], [[r.name, r.verb, r.doc] for r in rows])
        return
    text = (shipped.ROOT / f"{name}.yaml").read_text(encoding="utf-8")
    if as_json:
        print_json({"name": name, "text": text})
    else:
        click.echo(text, nl=False)
