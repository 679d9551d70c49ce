"""The command `generate`: draw pictures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import click

from compress.applications.limits import WIDEST_BLEND
from compress.cli import bulk, completing
from compress.cli.bulk import Bulk
from compress.cli.drawing import (
    THREADS,
    check_file,
    places_of,
    sampling_options,
    seed_option,
    sheet_options,
    tell,
)
from compress.cli.group import device_options, example, json_option
from compress.cli.paths import Share, UserPath
from compress.cli.reading import reading_of, reading_options
from compress.cli.saying import saying_options
from compress.cli.terminal import Terminal
from compress.core.settings import MOST_THREADS, InputError
from export.runtime.options import Sampling

if TYPE_CHECKING:
    from compress.data.reading import Fit
    from compress.data.wish import Drawer, Wish
    from compress.models.candidate import Candidate
    from export.runtime.output import Output
    from export.runtime.picture_files import Facts


@click.command()
@saying_options
@example("compress generate runs/quickstart/engines/cpu --labels 3,1,4 -o out.png")
@click.argument("engine", type=UserPath(), shell_complete=completing.models)
@click.option(
    "--labels", shell_complete=completing.class_names, help="Classes, by number or name, separated by commas."
)
@click.option("--count", type=click.IntRange(1), help="How many pictures of a model without classes.  [default: 1]")
@click.option("--features", type=UserPath(), help="Features of texts, .npy (pictures, length, width).")
@click.option(
    "-o",
    "--output",
    type=UserPath(),
    help="A sheet of all pictures: PNG, JPEG or WebP by its name. Of shards, their folder.",
)
@sheet_options
@click.option("--image", type=UserPath(), help="A picture to start from; give --mask or --keep too.")
@click.option("--mask", type=UserPath(), help="What is white in it is drawn anew (inpainting).")
@click.option("--keep", type=Share(0, 1), help="Share of its tokens that stay, in the order of drawing.")
@click.option(
    "--blend",
    metavar="PIXELS",
    type=click.IntRange(0, WIDEST_BLEND),
    help="Width of the soft border around what stays; 0 is a hard edge.  [default: half of a token's side]",
)
@reading_options
@click.option(
    "--beside",
    metavar="REFERENCE",
    help="Another engine, checkpoint or model draws the same: -o shows both side by side, with their times.",
)
@seed_option
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
@json_option
def generate(
    engine: Path, labels: str | None, count: int | None, features: Path | None, output: Path | None, grid: str | None,
    out_dir: Path | None, name: str | None, image: Path | None, mask: Path | None, keep: float | None,
    blend: int | None, fit: Fit | None, background: str | None, beside: str | None, seed: int, many: Bulk,
    batch: int | None, threads: int | None,
    device: str | None, provider_options: tuple[str, ...], require_plan: bool, as_json: bool,
    **sampling: Unpack[Sampling],
) -> None:  # fmt: skip
    """Draw pictures with an engine (or a checkpoint, in PyTorch), or draw a part of a given picture anew.

    A causal model keeps the upper rows of a picture (--keep 0.5 completes the lower half); a masked model keeps tokens
    all over it, or redraws what a mask shows; a next-scale model keeps the coarse scales. Pixels that stay are those of
    the given picture, byte for byte; beside them it fades out over --blend pixels.

    Files say what they were drawn by: seed, class, sampler, and the hash of the engine. The time that is printed is
    that of drawing and decoding.

    With --on, --labels-file, --shard-size, or --format without --out-dir, pictures go into a folder of shards, --count
    of them. Picture i is the same, byte for byte, whoever draws it. The same command again draws what is missing.
    """
    if (image is not None) != (mask is not None or keep is not None) or (mask is not None and keep is not None):
        raise InputError("--image goes with exactly one of --mask and --keep")
    if blend is not None and image is None:
        raise InputError("--blend: is of the border of what stays of an --image; give that too, or leave it out")
    if image is None and (fit or background):
        raise InputError(f"{'--fit' if fit else '--background'}: goes with --image; give that too, or leave it out")
    reading = reading_of(fit, background)
    if out_dir is None and many.asked:
        for option, given in (("--image", image), ("--beside", beside), ("--grid", grid), ("--name", name)):
            if given is not None:
                raise InputError(f"{option}: goes with no shards, whose pictures are drawn whole; leave it out")
        if output is None:
            raise InputError("-o FOLDER: needed, the folder of the shards")
        opening = bulk.opening(threads or 1, device, provider_options, require_plan=require_plan)
        made = bulk.draw(engine, output, many, opening, labels, features, count or 0, seed, batch or 0, sampling)
        tell(bulk.closing_line(made, output), bulk.said(made, output), as_json)
        return
    if out_dir is not None and many != Bulk(format=many.format):
        raise InputError("--out-dir: --labels-file, --on and --shard-size make shards, which -o takes; leave one out")
    if output is not None:
        check_file(output)
    elif beside is not None:
        raise InputError("--beside: needs -o FILE for both side by side")
    places = places_of(output, out_dir, many.format, name, grid)
    from compress.data.editing import edit_of
    from compress.data.reading import Tally
    from compress.data.wish import Drawer, Wish
    from compress.models.candidate import identity, on_device, open_candidate
    from export.runtime.heeded import sampler_of
    from export.runtime.picture_files import Facts
    from export.runtime.request import wanted

    threads = threads or THREADS
    models = [str(engine)] if beside is None else [str(engine), beside]
    opened = on_device(models, threads, device, provider_options, require_plan=require_plan)
    drawer = open_candidate(opened[0], threads)
    try:
        classes, texts = wanted(drawer.shape, labels, count, features)
        sampler = sampler_of(drawer.shape, drawer.sampler, **sampling)  # refused before a picture is encoded
        facts = Facts(drawer.shape, sampler, seed, classes, identity(drawer, str(engine)))
        places.check(facts)
    except ValueError as error:
        raise InputError(str(error)) from error

    def named(name: str, model: Candidate) -> Drawer:
        if image is None:
            return Drawer(name, model, None)
        tally = Tally()
        edit = edit_of(model, image, mask, keep, blend, len(classes), reading, tally)
        for remark in tally.words(reading, model.picture):
            click.echo(f"--image {image}: {remark}", err=True)
        return Drawer(name, model, edit)

    own, wish = named(str(engine), drawer), Wish(classes, seed, texts, batch or 0, sampling)
    if beside is None:
        tell(*drawn(own, wish, places, facts), as_json)
    else:
        theirs = named(beside, open_candidate(opened[1], threads))
        tell(*paired(theirs, own, wish, places, facts, threads), as_json)


def drawn(own: Drawer, wish: Wish, places: Output, facts: Facts) -> tuple[str, dict[str, Any]]:
    """Draw and write; what is said of it."""
    with Terminal().work(f"draw with {own.name}") as progress:
        started = time.perf_counter()
        pictures = wish.draw(own, report=lambda done, total: progress(done, total, {}))
        seconds = time.perf_counter() - started
    places.write(pictures, facts)
    return places.line(len(pictures), seconds), places.said(facts, seconds)


def paired(
    theirs: Drawer, own: Drawer, wish: Wish, places: Output, facts: Facts, threads: int
) -> tuple[str, dict[str, Any]]:
    """Draw with both in turn and write them side by side; what is said of it."""
    from compress.verifying.beside import beside

    pair = beside(theirs, own, wish, threads, Terminal().say)
    grid = places.layout() if places.grid else None
    sheet = pair.sheet() if grid is None else pair.sheet(grid.columns, grid.rows)
    places.write(pair.pictures[1], facts, sheet, facts.of_all() | pair.said())
    lines = [places.held(len(facts.labels)), *pair.lines()]
    return "\n".join(lines), places.said(facts, pair.medians[1]) | {"beside": pair.said()}
