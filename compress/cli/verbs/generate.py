"""The command `generate`: draw pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from compress.cli.group import (
    OutputFile,
    Share,
    UserPath,
    example,
    threads_option,
)
from compress.cli.terminal import Terminal

if TYPE_CHECKING:
    pass

LAST_SEED = 2**64 - 1  # of pictures


@click.command()
@example("compress generate runs/quickstart/engines/cpu --labels 3,1,4 -o out.png")
@click.argument("engine", type=UserPath())
@click.option("--labels", help="Classes, separated by commas.")
@click.option("--count", type=click.IntRange(1), help="How many pictures of a model without classes.  [default: 1]")
@click.option("--features", type=UserPath(), help="Features of texts, .npy (pictures, length, width).")
@click.option("-o", "--output", type=OutputFile(), required=True, help="The PNG to write.")
@click.option("--image", type=UserPath(), help="A picture to start from; give --mask or --keep too.")
@click.option("--mask", type=UserPath(), help="What is white in it is drawn anew (inpainting).")
@click.option("--keep", type=Share(0, 1), help="Share of its tokens that stay, in the order of drawing.")
@click.option("--seed", type=click.IntRange(0, LAST_SEED), default=0, help="Seed of the pictures.  [default: 0]")
@click.option("--steps", type=click.IntRange(1), help="Steps of a masked model.  [default: the engine's]")
@click.option("--cfg-scale", type=click.FloatRange(0), help="Guidance; 1 is none.  [default: the engine's]")
@click.option("--temperature", type=click.FloatRange(0), help="0 always takes the likeliest.  [default: the engine's]")
@click.option("--top-k", type=click.IntRange(0), help="Keep the k likeliest; 0 keeps all.  [default: the engine's]")
@click.option("--top-p", type=click.FloatRange(0, 1), help="Keep this much probability.  [default: the engine's]")
@click.option("--batch", type=click.IntRange(1), help="Pictures drawn at once.  [default: as many as memory holds]")
@threads_option
def generate(
    engine: Path, labels: str | None, count: int | None, features: Path | None, output: Path, image: Path | None,
    mask: Path | None, keep: float | None, seed: int, steps: int | None, cfg_scale: float | None,
    temperature: float | None, top_k: int | None, top_p: float | None, batch: int | None, threads: int,
) -> None:  # fmt: skip
    """Draw pictures with an engine (or a checkpoint, in PyTorch), or draw a part of a given picture anew.

    A causal model keeps the upper rows of a picture (--keep 0.5 completes the lower half); a masked model keeps tokens
    all over it, or redraws what a mask shows; a next-scale model keeps the coarse scales.
    """
    import numpy as np

    from compress.core.settings import InputError
    from compress.data.editing import known_tokens
    from compress.models.candidate import open_candidate
    from export.runtime.drawing import check, sampler_of
    from export.runtime.request import wanted
    from export.runtime.sheet import save_grid
    from export.runtime.throughput import check_pictures, draw_in_batches

    drawer = open_candidate(str(engine), threads)
    try:
        classes, texts = wanted(drawer.shape, labels, count, features)
        given = {"cfg_scale": cfg_scale, "temperature": temperature, "top_k": top_k, "top_p": top_p, "steps": steps}
        sampler = sampler_of(drawer.shape, drawer.sampler, **given)
    except ValueError as error:
        raise InputError(str(error)) from error
    if (image is not None) != (mask is not None or keep is not None) or (mask is not None and keep is not None):
        raise InputError("--image goes with exactly one of --mask and --keep")
    known = known_tokens(drawer, image, mask, keep, len(classes)) if image else None
    try:
        check_pictures(drawer.picture, len(classes))
        check(classes, drawer.shape, texts, known)
        with Terminal().work(f"draw with {engine}") as progress:
            report = lambda done, total: progress(done, total, {})  # noqa: E731
            drawn = draw_in_batches(drawer, classes, seed, sampler, texts, known, batch or 0, report)
            pictures = np.concatenate(list(drawn))
    except ValueError as error:
        raise InputError(str(error)) from error
    save_grid(pictures, output)
    click.echo(f"{output}: {len(classes)} pictures")
