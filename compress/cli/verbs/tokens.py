"""The command `tokens`: pictures to a TokenSet."""

from __future__ import annotations

from pathlib import Path

import click

from compress.cli.group import (
    OutputFile,
    Share,
    UserPath,
    example,
)


@click.command()
@example("compress tokens photos/ -o tokens.npz --model digits")
@click.argument("images", type=UserPath())
@click.option("-o", "--output", type=OutputFile(), required=True, help="The TokenSet to write (.npz).")
@click.option("--model", "model_name", default="digits", show_default=True, help="A shipped model or a checkpoint.")
@click.option("--validation", type=Share(0, 0.9), default=0.05, show_default=True, help="Share set apart.")
@click.option("--held-out", type=Share(0, 0.9), default=0.2, show_default=True, help="Share set apart.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the split.")
def tokens(images: Path, output: Path, model_name: str, validation: float, held_out: float, seed: int) -> None:
    """Turn a folder of pictures into a TokenSet with the model's tokenizer.

    Pictures in a subfolder named 0, 1, 2 ... get that class; pictures right in the folder get no class.
    """
    from compress.core.settings import InputError
    from compress.data.tokens import from_folder
    from compress.models.candidate import open_model

    if output.suffix != ".npz":
        raise InputError(f"--output: '{output}' must end in .npz")
    model = open_model(model_name)
    made = from_folder(images, model, validation, held_out, seed)
    made.save(output)
    parts = {part: len(made.part(part)) for part in ("train", "validation", "held_out")}
    counts = ", ".join(f"{count} {part.replace('_', '-')}" for part, count in parts.items())
    click.echo(f"{output}: {len(made)} pictures of {made.tokens.shape[1]} tokens ({counts})")
