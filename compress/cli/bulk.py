"""What `generate` does where many pictures go into shards, and its options for that."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from compress.cli.paths import UserPath
from compress.cli.terminal import Terminal
from compress.core.settings import MOST_PICTURES, InputError
from export.runtime.options import FORMATS

if TYPE_CHECKING:
    from compress.bulk.drawing import Opening
    from compress.bulk.generate import Drawn
    from compress.bulk.job import Written
    from export.runtime.options import Sampling


@dataclass(frozen=True)
class Bulk:
    """The options; any of them makes `-o` a folder of shards."""

    labels_file: Path | None = None
    on: str | None = None
    format: str | None = None
    shard_size: int | None = None

    @property
    def asked(self) -> bool:
        """Whether one was given."""
        return self != Bulk()

    @property
    def kind(self) -> Literal["webdataset", "png"]:
        """The format of shards.

        Raises:
            InputError: it is one of single files.
        """
        if self.format in (None, "webdataset"):
            return "webdataset"
        if self.format == "png":
            return "png"
        raise InputError(f"--format {self.format}: is of files in --out-dir; shards hold webdataset or png")


def options(command: Callable[..., None]) -> Callable[..., None]:
    """The options, which a command takes as `many`."""

    @functools.wraps(command)
    def called(
        *arguments: Any,
        labels_file: Path | None,
        on: str | None,
        format: str | None,
        shard_size: int | None,
        **more: Any,
    ) -> None:
        command(*arguments, many=Bulk(labels_file, on, format, shard_size), **more)

    called = click.option(
        "--shard-size", type=click.IntRange(1, MOST_PICTURES),
        help="Pictures of a shard, which one worker draws.  [default: up to 1024]",
    )(called)  # fmt: skip
    called = click.option(
        "--format", type=click.Choice(("webdataset", *FORMATS)),
        help="Of files in --out-dir: png, jpeg or webp.  [default: by --name, or png]  Of shards: webdataset (tar "
        "files of PNG and JSON) or png (folders).  [default: webdataset]",
    )(called)  # fmt: skip
    called = click.option(
        "--on", metavar="PLACE", help="Who draws: local:N (N processes), ray, or ray://HOST:PORT.  [default: local:1]"
    )(called)
    return click.option(
        "--labels-file", type=UserPath(),
        help="Classes, by number or name, one on each line; they are gone through again until there are --count "
        "pictures.",
    )(called)  # fmt: skip


def opening(threads: int, device: str | None, given: Sequence[str], *, require_plan: bool) -> Opening:
    """How workers open the engine.

    Raises:
        InputError: an option of the device is wrong.
    """
    from compress.bulk.drawing import Opening
    from export.runtime.devices import parsed_options

    try:
        return Opening(threads, device, parsed_options(given) or None, require_plan)
    except ValueError as error:
        raise InputError(str(error)) from error


def draw(
    engine: Path,
    output: Path,
    many: Bulk,
    opening: Opening,
    labels: str | None,
    features: Path | None,
    count: int,
    seed: int,
    batch: int,
    sampling: Sampling,
) -> Drawn:
    """Draw what is missing.

    Raises:
        InputError: something is wrong with what was given, or shards failed twice.
    """
    from compress.bulk.generate import Wish, draw_shards
    from compress.workers.place import place_of
    from export.runtime.request import read_features

    place = place_of(many.on or "local:1")
    try:
        texts = None if features is None else read_features(features)
    except ValueError as error:
        raise InputError(str(error)) from error
    classes, kind = labels_of(labels, many.labels_file), many.kind
    wish = Wish(classes, texts, sampling, seed, count, kind, many.shard_size or 0, batch)
    return draw_shards(engine, output, wish, place, opening, Terminal())


def labels_of(labels: str | None, file: Path | None) -> Written | None:
    """The labels that were given.

    Raises:
        InputError: both were given, or the file cannot be read.
    """
    from compress.bulk.job import Written

    if labels is not None and file is not None:
        raise InputError("--labels and --labels-file: give one of both")
    if file is not None:
        return Written.of_file(file)
    return None if labels is None else Written(labels)


def closing_line(drawn: Drawn, output: Path) -> str:
    """What a folder holds now."""
    job = drawn.job
    held = f"{output}: {job.count} pictures in {job.shards} shards, {job.name(0)} to {job.name(job.shards - 1)}"
    if not drawn.made:
        return f"{held}; all were there"
    return f"{held}; {drawn.made} drawn now, {drawn.per_second:.3g} pictures/s"


def said(drawn: Drawn, output: Path) -> dict[str, Any]:
    """The same for a program."""
    job = drawn.job
    found = {"folder": str(output), "pictures": job.count, "shards": job.shards, "drawn": drawn.made}
    return {**found, "images_per_second": drawn.per_second if drawn.made else None}
