"""The command `plan`: what a recipe would do."""

from __future__ import annotations

from pathlib import Path

import click

from compress.cli.group import example, instead_options, json_option, store_option
from compress.cli.paths import RecipeFile
from compress.cli.saying import saying_options
from compress.cli.terminal import Terminal, print_json, print_line, print_rows


@click.command()
@saying_options
@example("compress plan quickstart --preflight")
@click.argument("recipe", type=RecipeFile())
@click.option("--preflight", is_flag=True, help="Also drive the whole chain once on a two-layer copy of the model.")
@instead_options
@store_option
@json_option
def plan(recipe: Path, preflight: bool, model: str, tokens: str, store_path: Path | str, as_json: bool) -> None:
    """Show the chain of forms, what the store would reuse, and why the rest would be made. Makes nothing."""
    from compress.core.strict_yaml import read_yaml
    from compress.recipe.early import check_recipe

    check_recipe(read_yaml(recipe), recipe, model, tokens)  # as in `run`
    from compress.core.store import Store
    from compress.recipe import plan as plans
    from compress.recipe import recipe as recipes

    loaded = recipes.load(recipe, model, tokens)
    store = Store(store_path).check()
    pictures = plans.load_tokens(loaded)
    planned = plans.make_plan(loaded, pictures)
    made = store.makers()
    rows = [
        {"name": node.name, "form": node.form.value, "key": node.key, "reason": plans.explain(node, store, made)}
        for node in planned.nodes
    ]
    if not as_json:
        print_rows(
            str(recipe),
            ["step", "form", "key", ""],
            [[row["name"], row["form"], row["key"][:12], row["reason"]] for row in rows],
            least=("key", "form"),
        )
        if note := plans.processor_note(loaded):
            print_line(note)
    estimate = None
    if preflight:
        from compress.core.settings import InputError
        from compress.models.artifact import Form
        from compress.recipe.preflight import rehearse
        from compress.running import pipeline

        if loaded.form is not Form.TORCH:
            raise InputError(f"--preflight: {recipe} reads an ONNX graph, which has no two-layer copy to rehearse with")
        reference = pipeline.load_reference(loaded, pictures)
        estimate = rehearse(loaded, planned, reference, pictures, Terminal())
    if as_json:
        print_json({"steps": rows, "preflight": estimate})
    elif estimate is not None:
        print_line(estimate.words())
