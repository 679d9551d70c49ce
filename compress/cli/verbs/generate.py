"""The command `generate`: draw pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Unpack

import click

from compress.cli import bulk, completing
from compress.cli.bulk import Bulk
from compress.cli.group import (
    OutputFile,
    Share,
    UserPath,
    device_options,
    example,
)
from compress.cli.saying import saying_options
from compress.cli.terminal import Terminal
from compress.core.settings import MOST_THREADS, InputError
from export.runtime.options import OPTIONS, Sampling

LAST_SEED = 2**64 - 1  # of pictures
THREADS = 2
Command = Callable[..., None]


def sampling_options(command: Command) -> Command:
    """The settings of sampling as options."""
    for option in reversed(OPTIONS):
        kind = click.IntRange if option.whole else click.FloatRange
        words = f"{option.help[0].upper()}{option.help[1:]}.  [default: the engine's]"
        command = click.option(option.flag, type=kind(option.low, option.high), help=words)(command)
    return command


@click.command()
@saying_options
@example("compress generate runs/quickstart/engines/cpu --labels 3,1,4 -o out.png")
@click.argument("engine", type=UserPath(), shell_complete=completing.models)
@click.option(
    "--labels", shell_complete=completing.class_names, help="Classes, by number or name, separated by commas."
)
@click.option("--count", type=click.IntRange(1), help="How many pictures of a model without classes.  [default: 1]")
@click.option("--features", type=UserPath(), help="Features of texts, .npy (pictures, length, width).")
@click.option("-o", "--output", type=UserPath(), required=True, help="The PNG to write; of shards, their folder.")
@click.option("--image", type=UserPath(), help="A picture to start from; give --mask or --keep too.")
@click.option("--mask", type=UserPath(), help="What is white in it is drawn anew (inpainting).")
@click.option("--keep", type=Share(0, 1), help="Share of its tokens that stay, in the order of drawing.")
@click.option("--seed", type=click.IntRange(0, LAST_SEED), default=0, help="Seed of the pictures.  [default: 0]")
@bulk.options
@sampling_options
@click.option(
    "--batch",
    type=click.IntRange(1),
    help="Pictures drawn at once.  [default: as many as memory holds; for shards 32 token by token, else 4]",
)
@click.option(
    "--threads",
    type=click.IntRange(1, MOST_THREADS),
    help=f"Runtime threads.  [default: {THREADS}; for shards 1 for each worker]",
)
@device_options
def generate(
    engine: Path, labels: str | None, count: int | None, features: Path | None, output: Path, image: Path | None,
    mask: Path | None, keep: float | None, seed: int, many: Bulk, batch: int | None, threads: int | None,
    device: str | None, provider_options: tuple[str, ...], require_plan: bool, **sampling: Unpack[Sampling],
) -> None:  # fmt: skip
    """Draw pictures with an engine (or a checkpoint, in PyTorch), or draw a part of a given picture anew.

    A causal model keeps the upper rows of a picture (--keep 0.5 completes the lower half); a masked model keeps tokens
    all over it, or redraws what a mask shows; a next-scale model keeps the coarse scales.

    With --on, --labels-file, --format or --shard-size pictures go into a folder of shards, --count of them. Picture i
    is the same, byte for byte, whoever draws it. The same command again draws what is missing.
    """
    if (image is not None) != (mask is not None or keep is not None) or (mask is not None and keep is not None):
        raise InputError("--image goes with exactly one of --mask and --keep")
    if many.asked:
        if image is not None:
            raise InputError("--image: pictures of shards are drawn whole; leave it out")
        opening = bulk.opening(threads or 1, device, provider_options, require_plan=require_plan)
        drawn = bulk.draw(engine, output, many, opening, labels, features, count or 0, seed, batch or 0, sampling)
        click.echo(bulk.closing_line(drawn, output))
        return
    check_file(output)
    from compress.data.editing import known_tokens
    from compress.models.candidate import on_device, open_candidate
    from export.runtime.drawing import sampler_of
    from export.runtime.request import wanted
    from export.runtime.sheet import save_grid
    from export.runtime.throughput import draw_pictures

    threads = threads or THREADS
    (opened,) = on_device([str(engine)], threads, device, provider_options, require_plan=require_plan)
    drawer = open_candidate(opened, threads)
    try:
        classes, texts = wanted(drawer.shape, labels, count, features)
        sampler_of(drawer.shape, drawer.sampler, **sampling)  # refused before a picture is encoded
    except ValueError as error:
        raise InputError(str(error)) from error
    known = known_tokens(drawer, image, mask, keep, len(classes)) if image else None
    with Terminal().work(f"draw with {engine}") as progress:
        report = lambda done, total: progress(done, total, {})  # noqa: E731
        try:
            pictures = draw_pictures(
                drawer, classes, seed, features=texts, known=known, batch=batch or 0, report=report, **sampling
            )
        except ValueError as error:
            raise InputError(str(error)) from error
    save_grid(pictures, output)
    click.echo(f"{output}: {len(classes)} pictures")


def check_file(output: Path) -> None:
    """Refuse an `-o` that no file can be written to.

    Raises:
        click.BadParameter: says why.
    """
    context = click.get_current_context()
    (option,) = (each for each in context.command.params if each.name == "output")
    OutputFile().convert(output, option, context)
