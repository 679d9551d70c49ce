"""What the verbs `vary`, `outpaint` and `upscale` have in common: their options, and how they end."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress.applications.limits import MOST_COUNT
from compress.cli import completing
from compress.cli.drawing import THREADS, check_file, places_of, sampling_options, seed_option, sheet_options, tell
from compress.cli.group import device_options, json_option
from compress.cli.paths import UserPath
from compress.cli.reading import reading_of
from compress.cli.saying import saying_options
from compress.cli.terminal import Terminal
from compress.core.settings import MOST_THREADS, InputError
from export.runtime.options import FORMATS, OPTIONS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from compress.data.reading import Fit, Reading, Tally
    from compress.data.wish import Wish
    from compress.models.candidate import Candidate
    from export.runtime.options import Sampling


@dataclass(frozen=True)
class Asked:
    """The options that all of them have."""

    engine: Path
    picture: Path
    label: str | None
    count: int
    features: Path | None
    output: Path | None
    grid: str | None
    out_dir: Path | None
    name: str | None
    format: str | None
    fit: Fit | None
    background: str | None
    seed: int
    batch: int | None
    threads: int
    device: str | None
    provider_options: tuple[str, ...]
    require_plan: bool
    as_json: bool
    sampling: Sampling


@dataclass(frozen=True)
class Given:
    """What pictures are made with."""

    model: Candidate
    image: Image.Image
    wish: Wish
    reading: Reading
    tally: Tally
    report: Callable[[int, int], None]


def application(command: Callable[..., None]) -> Callable[..., None]:
    """The arguments and options of all of them, which a verb takes as `asked`."""
    own = [each for each in Asked.__dataclass_fields__ if each not in ("sampling", "fit")]
    names = [option.name for option in OPTIONS]

    @functools.wraps(command)
    def gathered(*, fit: Fit | None = None, **given: Any) -> None:
        values = {name: given.pop(name) for name in own}
        sampling: Any = {name: given.pop(name) for name in names}
        command(asked=Asked(**values, fit=fit, sampling=sampling), **given)

    called: Callable[..., None] = gathered
    called = json_option(device_options(called))
    called = click.option(
        "--threads", type=click.IntRange(1, MOST_THREADS), default=THREADS, show_default=True, help="Runtime threads."
    )(called)
    called = click.option(
        "--batch", type=click.IntRange(1), help="Pictures drawn at once.  [default: as many as memory holds]"
    )(called)
    called = seed_option(sampling_options(called))
    called = click.option(
        "--format", type=click.Choice(FORMATS), help="Of files in --out-dir.  [default: by --name, or png]"
    )(called)
    called = sheet_options(called)
    called = click.option(
        "-o", "--output", type=UserPath(), help="A sheet of all pictures: PNG, JPEG or WebP by its name."
    )(called)
    called = click.option("--features", type=UserPath(), help="Features of texts, .npy (texts, length, width).")(called)
    called = click.option(
        "--count", type=click.IntRange(1, MOST_COUNT), default=1, show_default=True,
        help="How many pictures, of each class or text.",
    )(called)  # fmt: skip
    called = click.option(
        "--label", shell_complete=completing.class_names,
        help="Class of what is drawn, by number or name; several separated by commas.  [default: unconditional]",
    )(called)  # fmt: skip
    called = click.argument("picture", type=UserPath())(called)
    called = click.argument("engine", type=UserPath(), shell_complete=completing.models)(called)
    return saying_options(called)


def apply(asked: Asked, verb: str, how: dict[str, Any], make: Callable[[Given], tuple[NDArray[np.uint8], int]]) -> None:
    """Open the engine and the picture, `make` pictures, write them and say so; `how` is written into them too.

    `make` returns pictures (N, H, W, C), and how many windows were drawn for each.

    Raises:
        InputError: something cannot be opened, made or written.
    """
    reading = reading_of(asked.fit, asked.background)
    if asked.output is not None:
        check_file(asked.output)
    places = places_of(asked.output, asked.out_dir, asked.format, asked.name, asked.grid)
    from compress.core.user_files import opened

    with opened(asked.picture):  # a missing file is said before anything heavy is imported
        pass
    from compress.applications.asked import picture_of, wish_of
    from compress.data.reading import Tally
    from compress.models.candidate import can_encode, identity, on_device, open_candidate
    from export.runtime.heeded import sampler_of
    from export.runtime.manifest import file_hash
    from export.runtime.picture_files import Facts
    from export.runtime.request import read_features

    tally = Tally()
    image = picture_of(asked.picture, reading, tally)
    name, device = str(asked.engine), asked.device
    (model,) = on_device([name], asked.threads, device, asked.provider_options, require_plan=asked.require_plan)
    drawer = open_candidate(model, asked.threads)
    if not can_encode(drawer):
        raise InputError(
            f"{name}: has no image encoder, so the picture cannot become tokens; its checkpoint only decodes"
        )
    try:
        texts = None if asked.features is None else read_features(asked.features)
        wish = wish_of(drawer, asked.label, asked.count, texts, asked.seed, asked.batch or 0, asked.sampling)
        sampler = sampler_of(drawer.shape, drawer.sampler, **wish.sampling)
        said = {"verb": verb, "picture": file_hash(asked.picture), "how": how}
        facts = Facts(drawer.shape, sampler, asked.seed, wish.labels, identity(drawer, name), said)
        places.check(facts)
    except ValueError as error:
        raise InputError(str(error)) from error
    with Terminal().work(f"{verb} with {name}") as progress:
        started = time.perf_counter()
        given = Given(drawer, image, wish, reading, tally, lambda done, total: progress(done, total, {}))
        pictures, windows = make(given)
        seconds = time.perf_counter() - started
    for remark in tally.words(reading, drawer.picture):
        click.echo(f"{asked.picture}: {remark}", err=True)
    places.write(pictures, facts)
    size = {"width": pictures.shape[2], "height": pictures.shape[1], "windows": windows}
    several = f", {windows} windows" if windows > 1 else ""
    line = f"{places.line(len(pictures), seconds)} ({size['width']} x {size['height']} pixels{several})"
    tell(line, places.said(facts, seconds) | size, asked.as_json)
