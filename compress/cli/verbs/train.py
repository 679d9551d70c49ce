"""The command `train`: train a reference."""

from __future__ import annotations

from pathlib import Path

import click

from compress.cli.group import (
    example,
    json_option,
)
from compress.cli.terminal import Terminal, print_json


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
