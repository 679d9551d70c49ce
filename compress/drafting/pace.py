"""How long a picture of a model takes on this machine, from a short look at copies of a few of its layers.

The copies have random weights: no number of the checkpoint is read. Each time is a straight line through a copy of one
layer and a deeper one, so that what does not depend on the depth (embedding, head, Python around a step) counts once.
What counts is the time that this thread works (`CLOCK`), not the time on the wall: other programs disturb short tries
in leaps, by factors that say nothing of a run of minutes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from compress.measure.subject import AT_ONCE
from compress.models.image_model import ImageModel
from compress.models.transformer.examples import Examples, examples_of, nll
from compress.models.transformer.model import TokenTransformer
from export.runtime.drawing import conditions

CLOCK = time.thread_time  # PyTorch's other threads work beside this one, which waits for them spinning
LAYERS = 1, 3  # of the two copies, where the model has as many
TOGETHER = 8  # pictures that are scored at once
LONG_S = 0.2  # a look that takes as long is not repeated, and no further steps of a drawing are looked at
TRIES = 3
FEW = 3  # steps of a drawing, of which the first is not like the others


@dataclass(frozen=True)
class Pace:
    """Seconds that a picture takes of the whole model."""

    scored: float  # all tokens in one call, several pictures at once
    taught: float  # the same and backward
    drawn: float  # step by step in PyTorch, several pictures at once
    alone: float  # one picture, step by step in PyTorch
    decoded: float  # by the image decoder


class Enough(Exception):  # noqa: N818 - it ends a look, and is no error
    """So many steps say how long the others take."""


def pace_of(model: ImageModel, threads: int) -> Pace:
    """Look at a model of which only shapes need to be known, on so many threads; it takes some seconds at most."""
    layers = len(model.transformer.config.layers)
    depths = sorted({min(each, layers) for each in LAYERS})
    with on_threads(threads):
        looks = [looked_at(copy_of(model, depth)) for depth in depths]
        tokens = np.zeros((1, model.shape.length), dtype=np.int64)
        decoded = best(lambda: model.decode_images(tokens))
    scored, taught, drawn, alone = (through(depths, seconds, layers) for seconds in zip(*looks, strict=True))
    return Pace(scored, taught, drawn, alone, decoded)


def through(depths: list[int], seconds: tuple[float, ...], layers: int) -> float:
    """What a straight line through the copies says of so many layers; a layer takes no less than no time."""
    slope = max(0.0, seconds[-1] - seconds[0]) / max(1, depths[-1] - depths[0])
    return seconds[-1] + slope * (layers - depths[-1])


def copy_of(model: ImageModel, depth: int) -> ImageModel:
    """A model of the first layers, with random weights."""
    config = model.transformer.config
    transformer = TokenTransformer(config.with_layers(config.layers[:depth]))
    transformer.initialise(torch.Generator().manual_seed(0))
    return model.with_transformer(transformer.eval())


def looked_at(copy: ImageModel) -> tuple[float, float, float, float]:
    """The times of a copy, in the order of a pace's fields."""
    shape = copy.shape
    labels, features = conditions(shape, TOGETHER)
    batch = examples_of(shape, np.zeros((TOGETHER, shape.length), dtype=np.int64), labels, 0, features)
    return (
        best(lambda: copy.score(batch.inputs, batch.features)) / TOGETHER,
        best(lambda: teach(copy.transformer, batch)) / TOGETHER,
        drawing(copy, AT_ONCE) / AT_ONCE,
        drawing(copy, 1),
    )


def teach(transformer: TokenTransformer, batch: Examples) -> None:
    """Forward and backward, as a step of a training does."""
    transformer.zero_grad()
    nll(transformer, batch).mean().backward()


def drawing(copy: ImageModel, pictures: int) -> float:
    """Seconds to draw so many pictures; where that is long, from some of the steps."""
    moments: list[float] = []
    labels, features = conditions(copy.shape, pictures)
    steps = copy.shape.drawing.steps(copy.shape, copy.sampler)
    began = CLOCK()

    def on_step() -> None:
        moments.append(CLOCK() - began)
        if moments[-1] > LONG_S and len(moments) >= FEW and not copy.shape.drawing.scaled:
            raise Enough

    with contextlib.suppress(Enough):
        copy.draw_tokens(labels, features=features, on_step=on_step)
    if len(moments) == steps:
        return moments[-1]
    return moments[0] + float(np.quantile(np.diff(moments), 0.25)) * (steps - 1)


def best(look: Callable[[], object]) -> float:
    """The shortest of a few tries, the first of which warms up; a long one is tried once."""
    tries: list[float] = []
    while len(tries) <= TRIES and (not tries or tries[0] < LONG_S):
        began = CLOCK()
        look()
        tries.append(CLOCK() - began)
    return min(tries[1:] or tries)


@contextlib.contextmanager
def on_threads(count: int) -> Iterator[None]:
    """PyTorch with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
