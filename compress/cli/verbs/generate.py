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
    whole_numbers,
)
from compress.cli.terminal import Terminal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from export.runtime.shape import Shape

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
    from export.runtime.sheet import save_grid
    from export.runtime.throughput import check_pictures, draw_in_batches

    drawer = open_candidate(str(engine), threads)
    try:
        given = {"cfg_scale": cfg_scale, "temperature": temperature, "top_k": top_k, "top_p": top_p, "steps": steps}
        sampler = sampler_of(drawer.shape, drawer.sampler, **given)
    except ValueError as error:
        raise InputError(str(error)) from error
    classes, texts = wanted(drawer.shape, labels, count, features)
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


def wanted(
    shape: Shape, labels: str | None, count: int | None, features: Path | None
) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
    """The classes (N,) to draw, and features of texts, as the options say.

    Raises:
        InputError: the model takes something else.
    """
    import numpy as np

    from compress.core.settings import InputError
    from export.runtime.drawing import classes_of

    if shape.text is not None:
        if features is None or labels is not None:
            raise InputError("this model draws texts: give --features FILE.npy, not --labels")
        texts = read_features(features)
        return np.zeros(len(texts), dtype=np.int64), texts
    if features is not None:
        raise InputError("--features: this model draws no texts; leave it out")
    if shape.classes == 0:
        if labels is not None:
            raise InputError("--labels: this model knows no classes; give --count instead")
        return np.zeros(count or 1, dtype=np.int64), None
    if count is not None:
        raise InputError("--count: this model draws classes; give a label for each picture and leave it out")
    if labels is None:
        raise InputError(f"--labels: needed, one of 0 to {shape.classes - 1} for each picture, separated by commas")
    try:
        return classes_of(whole_numbers(labels, "--labels", "3,1,4"), shape), None
    except ValueError as error:
        raise InputError(f"--labels: {error}") from error


def read_features(path: Path) -> NDArray[np.float32]:
    """Features of texts (N, P, C) from a .npy file, which is mapped before it is read: its header may say any size.

    Raises:
        InputError: it is no such file.
    """
    import numpy as np

    from compress.core.settings import InputError

    if path.exists() and not path.is_file():
        raise InputError(f"--features: {path}: is not a regular file")
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy parses the header as Python, with whatever that raises
        raise InputError(f"--features: {path}: not a readable .npy file ({str(error)[:200]})") from error
    if not isinstance(found, np.ndarray) or found.ndim != 3 or found.dtype.kind != "f":
        said = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else "an archive"
        raise InputError(f"--features: {path}: holds {said}; floats (pictures, length, width) are needed")
    return found.astype(np.float32)
