"""The command `schema`: JSON schemas of what is written and read."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import click

from compress.cli.group import example, json_option
from compress.cli.paths import OutputFile
from compress.cli.terminal import print_json

MODULES = {
    "recipe": "compress.recipe.schema",
    "training": "compress.training.schema",
    "report": "compress.report.data.schema",
}
HEADER = "# yaml-language-server: $schema="


@click.command()
@example("compress schema recipe -o recipe.schema.json")
@click.argument("kind", type=click.Choice(list(MODULES)))
@click.option("-o", "--output", type=OutputFile(), help="Write it here; without, it is printed.")
@json_option
def schema(kind: str, output: Path | None, as_json: bool) -> None:
    """Print the JSON schema of recipes, of training recipes, or of report.json.

    Editors with a YAML language server complete and check a recipe whose first line names the schema's file.
    """
    from compress.core.durable import write_text

    text = json.dumps(importlib.import_module(MODULES[kind]).schema(), indent=2) + "\n"
    if output is None:
        click.echo(text, nl=False)
        return
    write_text(output, text)
    if as_json:
        print_json({"output": str(output), "schema": kind})
        return
    click.echo(
        output if kind == "report" else f"{output}: a recipe is checked by it that begins with  {HEADER}{output}"
    )
