"""The command `train`: train a reference."""

from __future__ import annotations

from pathlib import Path

import click

from compress.cli.group import example, json_option, on_option
from compress.cli.paths import RecipeFile, UserPath
from compress.cli.saying import saying_options
from compress.cli.terminal import Terminal, print_json
from compress.core.launched import first


@click.command()
@saying_options
@example("compress train train-digits -o runs/train-digits")
@click.argument("recipe", type=RecipeFile())
@click.option("-o", "--output", type=UserPath(), required=True, help="Folder of the checkpoint.")
@on_option
@json_option
def train(recipe: Path, output: Path, on: str, as_json: bool) -> None:
    """Train a reference model or a tokenizer from a recipe; an interrupted training goes on where it was.

    A recipe with a `tokenizer` block trains an image tokenizer, one with a `model` block a transformer. Several
    processes train the same weights, to rounding; torchrun may start them too: torchrun ... -m compress train ...
    """
    from compress.core.strict_yaml import read_yaml
    from compress.recipe.early import check_training

    check_training(read_yaml(recipe), recipe)  # said before anything heavy is imported
    from compress import api

    result = api.train(recipe, output, listener=Terminal(), on=on)
    if not first():
        return
    if as_json:
        print_json(result)
        return
    if "psnr" in result:
        line = f"held-out PSNR {result['psnr']:.2f} dB, {result['used_codes_share']:.1%} of the codes are used"
    else:
        line = f"held-out NLL {result['held_out_nll']:.4f} nats per token"
    click.echo(f"{output}: {line}")
