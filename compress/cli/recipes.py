"""The verbs that drive a recipe: run, plan, train."""

from __future__ import annotations

from pathlib import Path

import click

from compress.cli.group import example, json_option, leave, store_option
from compress.cli.terminal import Terminal, console, print_json, print_rows


@click.command()
@example("compress run recipes/quickstart.yaml")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The run's folder.  [default: runs/<recipe>]")
@store_option
@click.option("--skip-preflight", is_flag=True, help="Do not rehearse the chain on a two-layer copy first.")
@json_option
def run(recipe: Path, output: Path | None, store_path: Path, skip_preflight: bool, as_json: bool) -> None:
    """Compress, export, measure and judge: the whole recipe.

    Writes report.json, report.md, the engines and the pictures into the run's folder. What the store holds is reused.
    Exits with 1 if a gate is breached, 2 if the recipe or an input is wrong.
    """
    from compress.core.strict_yaml import read_yaml

    read_yaml(recipe)  # what is no YAML is said before anything heavy is imported
    from compress.core.store import Store
    from compress.recipe import recipe as recipes
    from compress.report.text.table import table
    from compress.run import pipeline

    loaded = recipes.load(recipe)
    folder = output or Path("runs") / loaded.name
    result = pipeline.run(loaded, Store(store_path), folder, Terminal(), preflight=not skip_preflight)
    if as_json:
        print_json(result)
    else:
        console().print(table(result))
        for line in pipeline.closing_lines(result, folder):
            click.echo(line)
    leave(passed=result.verdict.passed)


@click.command()
@example("compress plan recipes/quickstart.yaml --preflight")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--preflight", is_flag=True, help="Also drive the whole chain once on a two-layer copy of the model.")
@store_option
@json_option
def plan(recipe: Path, preflight: bool, store_path: Path, as_json: bool) -> None:
    """Show the chain of forms, what the store would reuse, and why the rest would be made. Makes nothing."""
    from compress.core.strict_yaml import read_yaml

    read_yaml(recipe)  # as in `run`
    from compress.core.store import Store
    from compress.recipe import plan as plans
    from compress.recipe import recipe as recipes

    loaded = recipes.load(recipe)
    store = Store(store_path).check()
    tokens = plans.load_tokens(loaded)
    planned = plans.make_plan(loaded, tokens)
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
        )
        if note := plans.processor_note(loaded):
            click.echo(note)
    estimate = None
    if preflight:
        from compress.core.settings import InputError
        from compress.models.artifact import Form
        from compress.recipe.preflight import rehearse
        from compress.run import pipeline

        if loaded.form is not Form.TORCH:
            raise InputError(f"--preflight: {recipe} reads an ONNX graph, which has no two-layer copy to rehearse with")
        model = pipeline.load_reference(loaded, tokens)
        estimate = rehearse(loaded, planned, model, tokens, Terminal())
    if as_json:
        print_json({"steps": rows, "preflight": estimate})
    elif estimate is not None:
        click.echo(estimate.words())


@click.command()
@example("compress train recipes/train-digits.yaml -o runs/train-digits")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder of the checkpoint.")
@json_option
def train(recipe: Path, output: Path, as_json: bool) -> None:
    """Train a reference model or a tokenizer from a recipe; an interrupted training goes on where it was.

    A recipe with a `tokenizer` block trains a tokenizer of photographs, one with a `model` block a transformer.
    """
    from compress.core.strict_yaml import read_yaml

    content = read_yaml(recipe)
    if isinstance(content, dict) and "tokenizer" in content and "model" not in content:
        from compress.training.tokenizer import TokenizerRecipe, train_tokenizer

        wanted = TokenizerRecipe.load(recipe)
        with Terminal().work(f"train {wanted.name}") as progress:
            result = train_tokenizer(wanted, output, progress)
        line = f"held-out PSNR {result['psnr']:.2f} dB, {result['used_codes_share']:.1%} of the codes are used"
    else:
        from compress.training.transformer import TrainRecipe
        from compress.training.transformer import train as run_training

        loaded = TrainRecipe.load(recipe)
        with Terminal().work(f"train {loaded.name}") as progress:
            result = run_training(loaded, output, progress)
        line = f"held-out NLL {result['held_out_nll']:.4f} nats per token"
    if as_json:
        print_json(result)
    else:
        click.echo(f"{output}: {line}")
